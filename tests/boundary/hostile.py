"""What an attacker brings along: images with traps in them, and a language to attack with."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

from harness import busybox_tree

PYTHON = os.path.realpath(sys.executable)
# where this machine's interpreter and its libraries are; the image of the tests has only busybox
PYTHON_TREES = tuple(path for path in dict.fromkeys(("/usr", "/lib", "/lib64", sys.base_prefix)) if os.path.isdir(path))
RENAME_EXCHANGE = 2
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def python_volumes() -> list[str]:
    """Return options of ``docker run`` that show this machine's interpreter to the container."""
    return [word for path in PYTHON_TREES for word in ("-v", f"{os.path.realpath(path)}:{path}:ro")]


def python_mounts() -> list[dict]:
    """Return the same as mounts of an OCI configuration."""
    return [
        {"destination": path, "type": "bind", "source": os.path.realpath(path), "options": ["rbind", "ro"]}
        for path in PYTHON_TREES
    ]


def python(code: str) -> list[str]:
    """Return the command that runs ``code`` inside."""
    return [PYTHON, "-I", "-S", "-c", code]


@contextlib.contextmanager
def hostile_image(engine, tmp_path: Path, arrange, *changes: str, tag: str = "hostile:1"):
    """An image of busybox that ``arrange(tree)`` has worked on."""
    tree = busybox_tree(tmp_path / "tree")
    arrange(tree)
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
    engine.docker("import", *(word for change in changes for word in ("--change", change)), archive, tag)
    try:
        yield tag
    finally:
        engine.remove_containers()
        engine.docker("rmi", "-f", tag)


def replace_by_link(path: Path, target: str | Path) -> None:
    """Put a symbolic link where a file or an empty directory is, or nothing."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def status_fields(text: str) -> dict[str, str]:
    """Return the fields of ``/proc/<pid>/status``."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def status(engine, *arguments: str) -> dict[str, str]:
    """Return the status of a container's program."""
    return status_fields(engine.docker("run", "--rm", *arguments, "busybox", "cat", "/proc/self/status").stdout)


class Swapper:
    """Exchanges two names without pause, as a container that shares a volume would."""

    def __init__(self, one: Path, other: Path) -> None:
        self._one, self._other = os.fsencode(one), os.fsencode(other)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swaps = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            if _libc.renameat2(AT_FDCWD, self._one, AT_FDCWD, self._other, RENAME_EXCHANGE) == 0:
                self.swaps += 1

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
