"""An OCI runtime as its callers know it, by its command line: orlop-runtime or one of its peers, and a configuration."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import BIN, PATIENCE, busybox_tree, remove_cgroups

CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["sleep", "600"],
        "env": ["PATH=/bin", "HOME=/root", "WORD=a b"],
        "cwd": "/",
        "capabilities": {name: ["CAP_KILL", "CAP_CHOWN"] for name in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "conformance",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/keys", "/proc/scsi"],
        "readonlyPaths": ["/proc/sys"],
    },
}


@dataclass
class Runtime:
    """One runtime under test.

    Attributes:
        command: how it is called.
        home: a directory of the test's own, as the host sees it.
        seen: the same directory as the runtime sees it (a peer lives in a tree of its own).
        parent: the cgroup parent of all containers.
        criu: whether containers can be checkpointed here.
        settings: flags before every command.
    """

    command: list[str]
    home: Path
    seen: str
    parent: str
    criu: bool = False
    settings: tuple[str, ...] = ()
    containers: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The program's name."""
        return os.path.basename(self.command[-1])

    def line(self, *arguments: str, setting: str = "") -> list[str]:
        """Return a whole command line; ``setting`` is the shell's ``NAME=VALUE ...`` before it, where $$ is its pid."""
        *before, program = self.command
        shell = ["sh", "-c", f'{setting} exec "$@"', "sh"] if setting else []
        return [*before, *shell, program, *self.settings, "--root", f"{self.seen}/state", *arguments]

    def __call__(
        self, *arguments: str, timeout: float = 20, setting: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        full = self.line(*arguments, setting=setting)
        if "stdin" not in options:
            options["input"] = ""  # not the null device: crun gives it to the container's user, and with it everybody's
        # a created container keeps its output open: files, not pipes, or the end of output never comes
        out, err = self.home / "out", self.home / "err"
        with out.open("w") as stdout, err.open("w") as stderr:
            done = subprocess.run(
                full, stdout=stdout, stderr=stderr, check=False, timeout=timeout * PATIENCE, **options
            )
        return subprocess.CompletedProcess(full, done.returncode, out.read_text(), err.read_text())

    def expect(self, *arguments: str, **options: Any) -> str:
        """Run a command that must succeed and return its output."""
        done = self(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def refuses(self, *arguments: str, words: str = "") -> None:
        """Run a command that must fail and say why."""
        done = self(*arguments)
        assert done.returncode != 0, f"{arguments} was accepted: {done.stdout}"
        assert words in done.stderr, f"{arguments}: {done.stderr!r} does not say {words!r}"

    def bundle(self, *args: str, **changes: Any) -> tuple[str, str]:
        """Make a bundle; return (new container id, path as the runtime sees it). ``a__b=`` changes config["a"]["b"]."""
        identity = f"c{secrets.token_hex(6)}"
        config = copy.deepcopy(CONFIG)
        config["linux"]["cgroupsPath"] = f"{self.parent}/{identity}"
        if args:
            config["process"]["args"] = list(args)
        for path, value in changes.items():
            target = config
            *above, last = path.split("__")
            for name in above:
                target = target[name]
            target[last] = value
        directory = self.home / identity
        directory.mkdir()
        if "root" not in changes:
            config["root"]["path"] = f"{self.seen}/rootfs"
        (directory / "config.json").write_text(json.dumps(config))
        self.containers.append(identity)
        return identity, f"{self.seen}/{identity}"

    def run(self, script: str, *, timeout: float = 20, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell script in a container of its own."""
        identity, bundle = self.bundle("sh", "-c", script, **changes)
        return self("run", "--bundle", bundle, identity, timeout=timeout)

    def state(self, identity: str) -> dict[str, Any]:
        return json.loads(self.expect("state", identity))

    def wait(self, identity: str, status: str, *, seconds: float = 5) -> None:
        # a process that lost its parent is there until the machine's first one has collected it, which takes its time
        deadline = time.monotonic() + seconds * PATIENCE
        while self.state(identity)["status"] != status:
            assert time.monotonic() < deadline, f"{identity} is {self.state(identity)['status']}, not {status}"
            time.sleep(0.02)

    @contextlib.contextmanager
    def running(self, *args: str, **changes: Any) -> Iterator[str]:
        """A started container, deleted by force at the end."""
        identity, bundle = self.bundle(*args, **changes)
        self.expect("create", "--bundle", bundle, identity)
        try:
            self.expect("start", identity)
            self.wait(identity, "running")
            yield identity
        finally:
            self("delete", "--force", identity)

    def destroy(self) -> None:
        """Remove everything."""
        for identity in self.containers:
            self("delete", "--force", identity)
        remove_cgroups(self.parent.strip("/"))
        shutil.rmtree(self.home, ignore_errors=True)


def make_runtime(command: list[str], directory: Path, seen: str) -> Runtime:
    """Set up a runtime with a root file system of busybox."""
    name = f"orlop-t-{secrets.token_hex(4)}"
    home = directory / name
    home.mkdir()
    busybox_tree(home / "rootfs")
    return Runtime(command, home, f"{seen}/{name}", f"/{name}")


@contextlib.contextmanager
def orlop_runtime() -> Iterator[Runtime]:
    """``orlop-runtime`` in a directory of its own, which goes with what is left of its containers."""
    with tempfile.TemporaryDirectory(prefix="orlop-t-") as directory:
        made = make_runtime([str(BIN / "orlop-runtime")], Path(directory), directory)
        try:
            yield made
        finally:
            made.destroy()
