"""A throw-away virtual machine with Debian's own kernel: pure cgroup v2, AppArmor, device mapper, ipvlan, systemd.

``tests/vm/build-image`` makes what it boots, once per content of that script, in a cache directory outside of the
repository (:func:`cache_directory`). The root image is never written: each boot starts from it afresh. The repository
is shared with the machine under its own path, so that ``.venv`` works inside.

    python tests/vm/machine.py COMMAND [ARGUMENT...]     run one command in it, as root, in the repository
"""

from __future__ import annotations

import contextlib
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


def prepare() -> Path:
    """Build the image unless it is there. Older versions' images are removed."""
    image = image_directory()
    if not (image / "root.img").exists():
        for old in cache_directory().glob("*/root.img"):
            shutil.rmtree(old.parent)
        subprocess.run([BUILDER, image], check=True)
    return image


class Machine:
    """One boot, which runs one command and powers off; a context manager that ends it.

    Attributes:
        exchange: a directory of the host that the machine sees as ``/ctl``.
    """

    def __init__(self, command: list[str], *, memory: int = 2048) -> None:
        self._image = prepare()
        self.exchange = Path(tempfile.mkdtemp(prefix="orlop-vm-"))
        (self.exchange / "bin").mkdir()
        docker = shutil.which("docker") or ROOT / ".make/bin/docker"
        if os.path.exists(docker):
            shutil.copy(docker, self.exchange / "bin/docker")
        (self.exchange / "directory").write_text(str(ROOT))
        # run from the share, a program would be read page by page each time
        (self.exchange / "job").write_text(f"cp /ctl/bin/* /usr/local/bin/\nset -e\n{shlex.join(command)}\n")
        self._log = (self.exchange / "console").open("wb")
        self._process = subprocess.Popen(
            self._qemu(memory), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    def _qemu(self, memory: int) -> list[str]:
        append = (
            "console=ttyS0 quiet loglevel=3 systemd.show_status=0 mitigations=off nokaslr no_timer_check tsc=reliable "
            "panic=-1 apparmor=1 security=apparmor"
        )
        shares = []
        for tag, path in (("host", ROOT), ("ctl", self.exchange)):
            shares += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap"]
        return [
            *("qemu-system-x86_64", "-accel", os.environ.get("ORLOP_VM_ACCEL", "tcg,thread=multi")),
            *("-m", str(memory), "-smp", str(min(4, os.cpu_count() or 1)), "-nodefaults", "-no-user-config"),
            *("-nographic", "-serial", "stdio", "-no-reboot", "-nic", "none"),
            *("-kernel", str(self._image / "vmlinuz"), "-initrd", str(self._image / "initrd.gz"), "-append", append),
            *("-drive", f"file={self._image / 'root.img'},format=raw,if=virtio,snapshot=on"),
            *shares,
        ]

    def running(self) -> bool:
        """Whether it has not powered off yet."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Return the command's exit status. Raises TimeoutError, and RuntimeError when it ended without one."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the machine still runs after {seconds:.0f} s: {self.output()[-2000:]}") from None
        status = self.exchange / "status"
        if not status.exists() or not status.read_text().strip():
            raise RuntimeError(f"the machine ended without a status: {self.output()[-2000:]}")
        return int(status.read_text())

    def output(self) -> str:
        """What the command has printed so far, and the kernel if it had to."""
        text = _NOISE.sub("", (self.exchange / "console").read_text(errors="replace"))
        return text.partition("Booting from ROM..")[2].lstrip(".\n") or text

    def close(self) -> None:
        """Switch it off and remove what was exchanged."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.exchange)

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
            running = machine.running()
            text = machine.output()
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = len(text)
            if not running:
                return machine.wait(0)
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
