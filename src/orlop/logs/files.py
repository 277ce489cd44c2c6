"""The files of one log: ``<path>`` is written, ``<path>.1`` is the one before, and so on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.logs.entry import LINE_LIMIT, parse_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.logs.entry import LogEntry

_BLOCK = 64 * 1024
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def open_log(path: str) -> int | None:
    """Open one log file; None when there is none."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return None


def open_all(path: str) -> list[int]:
    """Open every file of the log, oldest first; the current one is the last. They survive a rotation meanwhile.

    Raises:
        OSError: one of them is no log (a symbolic link, ``O_NOFOLLOW``), or cannot be opened; none is left open.
    """
    fds: list[int] = []
    try:
        current = open_log(path)
        if current is not None:
            fds.append(current)
        number = 1
        while (older := open_log(f"{path}.{number}")) is not None:
            fds.insert(0, older)
            number += 1
        if current is not None and len(fds) > 1 and os.path.samestat(os.fstat(fds[-2]), os.fstat(current)):
            # Rotated between the two opens: ours is the one that is ``.1`` now.
            os.close(fds.pop(-2))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


class LineReader:
    """Reads whole lines of one growing file, from ``offset``; an unfinished last line waits for its end."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        self._fd = fd
        self._offset = offset
        self._rest = b""

    def entries(self) -> Iterator[LogEntry]:
        """Yield what is complete; damaged lines are skipped."""
        while block := os.pread(self._fd, _BLOCK, self._offset):
            self._offset += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > LINE_LIMIT:
                self._rest = b""
            for line in lines:
                if line and (entry := parse_entry(line)) is not None:
                    yield entry


def tail_offset(fd: int, lines: int) -> tuple[int, int]:
    """Return where the last ``lines`` lines of a file begin and how many it really has of them."""
    size = os.fstat(fd).st_size
    position, found = size, 0
    while position > 0:
        length = min(_BLOCK, position)
        block = os.pread(fd, length, position - length)
        if position == size and block.endswith(b"\n"):
            # The end of the last line does not begin another one.
            found -= 1
        start = len(block)
        while (start := block.rfind(b"\n", 0, start)) >= 0:
            found += 1
            if found == lines:
                return position - length + start + 1, lines
        position -= length
    return 0, max(0, found + 1) if size else 0
