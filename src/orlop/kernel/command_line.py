"""What /proc/<pid>/cmdline shows of a process that has not executed anything since (proc_pid_cmdline(5))."""

from __future__ import annotations

import os

from orlop.kernel import foreign as ctypes
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class CommandLine:
    """The memory that the kernel reads the arguments from: the same in every fork of the process that found it."""

    address: int
    size: int

    def write(self, words: Iterable[bytes]) -> None:
        """Show ``words`` instead, cut off where the first arguments ended.

        The last byte stays NUL: else the kernel takes it that the line goes on in the environment (setproctitle(3)).
        """
        text = b"\0".join(words)[: self.size - 1]
        area = (ctypes.c_char * self.size).from_address(self.address)
        area.raw = text.ljust(self.size, b"\0")


def find_command_line() -> CommandLine:
    """Find that of this process: ``arg_start`` and ``arg_end`` of proc_pid_stat(5)."""
    fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    fields = text[text.rindex(b")") + 2 :].split()
    start, end = int(fields[45]), int(fields[46])
    return CommandLine(start, end - start)
