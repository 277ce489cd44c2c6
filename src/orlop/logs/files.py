"""The files of one log: ``<path>`` is written, ``<path>.1`` or ``<path>.1.gz`` is the one before, and so on."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from typing import TYPE_CHECKING

from orlop.logs.entry import LINE_LIMIT, parse_entry
from orlop.spec.launch import COMPRESSED, GZIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.logs.entry import LogEntry

_BLOCK = 64 * 1024
_HEAD = 4096
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def open_log(path: str) -> int | None:
    """Open one log file; None when there is none."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return None


class LogFile:
    """One file of a log, as it was opened; owns its descriptor.

    Attributes:
        fd: of the file; of its plain text after :meth:`expand`.
        compressed: it is gzip's, and has to be expanded before its lines are read.
    """

    __slots__ = ("compressed", "fd")

    def __init__(self, fd: int, *, compressed: bool = False) -> None:
        self.fd = fd
        self.compressed = compressed

    def expand(self, directory: str) -> None:
        """Put the text into a nameless file of ``directory``; of a damaged one what can be had of it. Blocks."""
        expander = zlib.decompressobj(wbits=GZIP)
        offset = 0
        with tempfile.TemporaryFile(dir=directory, buffering=0) as text:
            with contextlib.suppress(zlib.error):
                while block := os.pread(self.fd, _BLOCK, offset):
                    offset += len(block)
                    text.write(expander.decompress(block))
            os.dup2(text.fileno(), self.fd, inheritable=False)
        self.compressed = False

    def is_copy_of(self, other: LogFile) -> bool:
        """Tell whether it is the other file, which is plain, or what that was compressed into."""
        if not self.compressed:
            return os.path.samestat(os.fstat(self.fd), os.fstat(other.fd))
        try:
            head = zlib.decompressobj(wbits=GZIP).decompress(os.pread(self.fd, _BLOCK, 0), _HEAD)
        except zlib.error:
            return False
        return bool(head) and os.pread(other.fd, len(head), 0) == head  # lines have their time

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def open_all(path: str) -> list[LogFile]:
    """Open every file of the log, oldest first; the current one is the last. They survive a rotation meanwhile.

    Raises:
        OSError: one of them is no log (a symbolic link, ``O_NOFOLLOW``), or cannot be opened; none is left open.
    """
    files: list[LogFile] = []
    try:
        current = open_log(path)
        if current is not None:
            files.append(LogFile(current))
        number = 1
        while (older := _open_rotated(f"{path}.{number}")) is not None:
            number += 1
            if files and not files[0].compressed and older.is_copy_of(files[0]):
                older.close()  # rotated between the two opens: each has the next one's name now
            else:
                files.insert(0, older)
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def open_since(path: str, last: LogFile) -> list[LogFile]:
    """Open the files that were begun after ``last``, oldest first: there can be several. Raises OSError."""
    files = open_all(path)
    for place in reversed(range(len(files))):
        if files[place].is_copy_of(last):
            for file in files[: place + 1]:
                file.close()
            return files[place + 1 :]
    return files  # it was the oldest, and has been removed


def _open_rotated(path: str) -> LogFile | None:
    """Open a file that was rotated, and may have been compressed, or just be."""
    for name in (path, path + COMPRESSED, path):
        fd = open_log(name)
        if fd is not None:
            return LogFile(fd, compressed=name != path)
    return None


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
