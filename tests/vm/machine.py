"""A throw-away virtual machine with Debian's own kernel: pure cgroup v2, AppArmor, device mapper, ipvlan, systemd.

``tests/vm/build-image`` makes what it boots, once per content of that script, in a cache directory outside of the
repository (:func:`cache_directory`). The root image is never written: each boot starts from it afresh. The repository
is shared with the machine under its own path, so that ``.venv`` works inside.

    python tests/vm/machine.py COMMAND [ARGUMENT...]     run one command in it, as root, in the repository
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILDER = Path(__file__).with_name("build-image")
# Debian 12's interpreter is the one in the image; .venv must be made of it
INTERPRETER = "/usr/bin/python3.11"
# written by QEMU's firmware and by the kernel at its end
_NOISE = re.compile(r"\x1bc|\x1b\[[0-9?;=]*[a-zA-Z]|\r")


def cache_directory() -> Path:
    """``ORLOP_VM_CACHE``, else ``orlop/vm`` in the user's cache directory."""
    given = os.environ.get("ORLOP_VM_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orlop/vm")


def image_directory() -> Path:
    """Where the image of this version of the builder is or will be."""
    return cache_directory() / hashlib.sha256(BUILDER.read_bytes()).hexdigest()[:16]


def obstacle() -> str:
    """Say why there can be no machine here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root"
    if os.path.realpath(sys.executable) != INTERPRETER:
        return f"the machine has {INTERPRETER} only, this is {os.path.realpath(sys.executable)}"
    if os.uname().machine != "x86_64":
        return f"the machine is x86_64, this is {os.uname().machine}"
    return ""


def _preparing() -> str:
    """Return the shell command that builds the image unless it is there. Older versions' images are removed."""
    image = image_directory()
    if (image / "root.img").exists():
        return "true"
    for old in cache_directory().glob("*/root.img"):
        shutil.rmtree(old.parent)
    return shlex.join([str(BUILDER), str(image)])


class Exchange:
    """The directory of one boot that host and machine share (``/ctl`` there). Any process of the host may look into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def running(self) -> bool:
        """Whether the machine has not powered off yet: a lock is held as long as its process lives."""
        with (self.path / "alive").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def output(self) -> str:
        """What the command has printed so far, and the kernel or the image's builder if they had to."""
        console = self.path / "console"
        text = _NOISE.sub("", console.read_text(errors="replace") if console.exists() else "")
        return text.partition("Booting from ROM..")[2].lstrip(".\n") or text


class Machine:
    """One boot, after the image was built if need be, which runs one command and powers off; a context manager that ends it.

    Attributes:
        exchange: what host and machine share.

    Args:
        command: run in the repository.
        directory: becomes the exchange; else a temporary one.
        nice: added to the niceness of all of it.
        security: the kernel's security module, apparmor or selinux.
    """

    def __init__(
        self,
        command: list[str],
        *,
        directory: Path | None = None,
        memory: int = 2048,
        nice: int = 0,
        security: str = "apparmor",
    ) -> None:
        path = directory or Path(tempfile.mkdtemp(prefix="orlop-vm-"))
        self.exchange = Exchange(path)
        self._image = image_directory()
        (path / "bin").mkdir()
        docker = shutil.which("docker") or ROOT / ".make/bin/docker"
        if os.path.exists(docker):
            shutil.copy(docker, path / "bin/docker")
        (path / "directory").write_text(str(ROOT))
        # run from the share, a program would be read page by page each time
        (path / "job").write_text(f"cp /ctl/bin/* /usr/local/bin/\nset -e\n{shlex.join(command)}\n")
        script = f"{_preparing()} && exec {shlex.join(self._qemu(memory, security))}"
        with (path / "console").open("wb") as log, (path / "alive").open("wb") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            self._process = subprocess.Popen(
                ["nice", "-n", str(nice), "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(alive.fileno(),),
                start_new_session=True,
            )

    def _qemu(self, memory: int, security: str) -> list[str]:
        append = (
            "console=ttyS0 quiet loglevel=3 systemd.show_status=0 mitigations=off nokaslr no_timer_check tsc=reliable "
            f"panic=-1 {security}=1 security={security}"
        )
        shares = []
        for tag, path in (("host", ROOT), ("ctl", self.exchange.path)):
            shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap"]
        return [
            *("qemu-system-x86_64", "-accel", os.environ.get("ORLOP_VM_ACCEL", "tcg,thread=multi")),
            *("-m", str(memory), "-smp", str(min(4, os.cpu_count() or 1)), "-nodefaults", "-no-user-config"),
            *("-nographic", "-serial", "stdio", "-no-reboot", "-nic", "none"),
            *("-kernel", str(self._image / "vmlinuz"), "-initrd", str(self._image / "initrd.gz"), "-append", append),
            *("-drive", f"file={self._image / 'root.img'},format=raw,if=virtio,snapshot=on"),
            *shares,
        ]

    def wait(self, seconds: float) -> int:
        """Return the command's exit status. Raises TimeoutError, and RuntimeError when it ended without one."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"the machine still runs after {seconds:.0f} s: {self.exchange.output()[-2000:]}"
            ) from None
        status = self.exchange.path / "status"
        if not status.exists() or not status.read_text().strip():
            raise RuntimeError(f"the machine ended without a status: {self.exchange.output()[-2000:]}")
        return int(status.read_text())

    def close(self) -> None:
        """Switch it off and remove what was exchanged."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.exchange.path)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main(command: list[str]) -> int:
    """Run one command and print what it prints while it does."""
    if not command or obstacle():
        print(obstacle() or __doc__, file=sys.stderr)
        return 2
    with Machine(command) as machine:
        shown = 0
        while True:
            running = machine.exchange.running()
            text = machine.exchange.output()
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)
            if not running:
                return machine.wait(5)
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
