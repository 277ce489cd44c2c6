"""A machine of its own for a program that calls the runtime: containerd, Podman, Slurm.

A script calls :func:`run_script` with its checks. They run in network, mount, pid, IPC and UTS namespaces of their own,
with an empty /run and /dev/shm, so that daemons, sockets and mounts end with them; afterwards the host is searched for
what is left.

    python tests/conformance/with_podman.py [RUNTIME]

RUNTIME is orlop-runtime unless named; /usr/bin/runc tests the tests.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import BIN, busybox_tar, remove_cgroups, wait_for

# callers attach beside the start, and resize: what comes before is lost, and an end before is an error, with any runtime
TTY = ("sh", "-c", "sleep 0.3; tty; sleep 0.3")

_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")
_TOP = Path("/sys/fs/cgroup")


@dataclass
class Machine:
    """Where the checks run.

    Attributes:
        home: a temporary directory; everything is kept below it.
        name: unique; the cgroup parent, and a part of other names.
        runtime: the path of the runtime under test.
    """

    home: Path
    name: str
    runtime: str
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
        }

    def run(self, *command: str | Path, status: int | None = 0, timeout: float = 60, **env: str) -> str:
        """Run a command and return its output, both streams; fail unless it ends with ``status`` (None: any)."""
        done = subprocess.run(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**self.environment, **env},
            cwd=self.home,
            timeout=timeout,
            check=False,
        )
        if status is not None and done.returncode != status:
            raise AssertionError(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def terminal(self, *command: str | Path, **env: str) -> str:
        """Run a command on a terminal of its own and return what it showed."""
        return self.run("script", "-qec", shlex.join(map(str, command)), "/dev/null", **env)

    def start(self, *command: str | Path, log: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a daemon; it ends with the checks."""
        with (self.home / log).open("ab") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.environment, **env},
                cwd=self.home,
            )
        self.daemons.append(process)
        return process

    def stop(self) -> None:
        """End the daemons, the last one first."""
        for process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def image(self) -> Path:
        """Write busybox as ``docker save`` does, named localhost/busybox:latest."""
        path = self.home / "busybox.tar"
        layer = busybox_tar(self.home / "layer.tar").read_bytes()
        diff_id = hashlib.sha256(layer).hexdigest()
        config = json.dumps(
            {
                "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
                "os": "linux",
                "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            }
        ).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        listing = [{"Config": name, "RepoTags": ["localhost/busybox:latest"], "Layers": [f"{diff_id}/layer.tar"]}]
        with tarfile.open(path, "w") as archive:
            for member, data in (
                (name, config),
                (f"{diff_id}/layer.tar", layer),
                ("manifest.json", json.dumps(listing).encode()),
            ):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path


def check(condition: Any, what: str, seen: Any = "") -> None:
    """Say what was checked, or fail with what was seen."""
    if not condition:
        raise AssertionError(f"{what}: {seen}")
    sys.stdout.write(f"ok  {what}\n")
    sys.stdout.flush()


def run_script(checks: Callable[[Machine], None], programs: tuple[str, ...]) -> None:
    """Run ``checks`` in namespaces of their own and look at what they left; ends the process."""
    if len(sys.argv) == 4 and sys.argv[1] == "--inside":
        sys.exit(_inside(checks, Path(sys.argv[2]), sys.argv[3]))
    missing = [program for program in programs if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (make conformance installs them)")
    runtime = sys.argv[1] if len(sys.argv) > 1 else str(BIN / "orlop-runtime")
    name = f"orlop-t-{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp"))
    home.chmod(0o755)
    script = Path(sys.argv[0]).resolve()
    shared = Path("/orlop") if not list(_TOP.glob("*/orlop")) else None
    status = 1
    try:
        command = [*_UNSHARE, "--", sys.executable, str(script), "--inside", str(home), runtime]
        status = subprocess.run(command, check=False, timeout=280).returncode
        left = _left_behind(name, home)
        if left and status == 0:
            sys.stdout.write(f"left behind: {left}\n")
            status = 1
        elif status == 0:
            sys.stdout.write("ok  nothing is left behind\n")
    finally:
        remove_cgroups(name)
        for directory in [] if shared is None else _TOP.glob("*/orlop"):
            with contextlib.suppress(OSError):  # others may have used it meanwhile
                directory.rmdir()
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(status)


def _left_behind(name: str, home: Path) -> list[str]:
    """Return cgroups, mounts and processes that carry our name. Cgroup parents that a caller made are removed first."""
    remove_cgroups(name)
    deadline = time.monotonic() + 5
    while True:
        left = glob.glob(f"{_TOP}/**/*{name}*", recursive=True)  # Path's fails where others remove cgroups meanwhile
        left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{process}/cmdline").read_bytes()
                if str(home).encode() in words:
                    left.append(f"process {process}: {words!r:.200}")
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def _inside(checks: Callable[[Machine], None], home: Path, runtime: str) -> int:
    name = "-".join(home.name.split("-")[:3])
    machine = Machine(home, name, runtime)
    machine.run("mount", "--make-rprivate", "/")
    machine.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    machine.run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")  # Podman's locks are there
    machine.run("ip", "link", "set", "lo", "up")
    if runtime.endswith("/runc") and (_TOP / "unified").is_dir():
        machine.run("umount", _TOP / "unified", status=None)  # Debian 12's runc takes no hybrid machine
    try:
        checks(machine)
    except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
        sys.stdout.write(f"FAILED  {error}\n")
        for log in sorted(home.glob("*.log")):
            sys.stdout.write(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}\n")
        return 1
    finally:
        machine.stop()
    return 0


__all__ = ["Machine", "check", "run_script", "wait_for"]
