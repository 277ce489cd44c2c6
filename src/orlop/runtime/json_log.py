r"""Docker's json-file log, written by the shim: one JSON object a line, split at 16 KiB, rotated by size.

    {"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}

A line without its newline was cut at :data:`LINE_LIMIT`, or is the last one of a program that ended within a line.
"""

from __future__ import annotations

import os
import time
from _json import encode_basestring as _encode

from orlop.primitives.json_text import dumps
from orlop.primitives.scope import suppress
from orlop.runtime.log_compression import begin_compression, finish_compression
from orlop.spec.launch import COMPRESSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.launch import LogTarget

LINE_LIMIT = 16 * 1024
_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def open_log(target: LogTarget) -> int:
    """Return a descriptor of the current file. Raises OSError, also where it is a link (threats.md H12)."""
    return os.open(target.path, _FLAGS, _MODE)


def rfc3339_nano(nanoseconds: int) -> str:
    """Return a time since the epoch as RFC 3339 in UTC with nine digits, without the datetime module."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:09}Z"


class LineSplitter:
    """Cuts a stream into lines of at most :data:`LINE_LIMIT` bytes; holds less than one line back."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete, with their newline, or full."""
        data = self._rest + data
        lines = []
        start = 0
        size = len(data)
        while start < size:
            end = data.find(b"\n", start, start + LINE_LIMIT)
            if end >= 0:
                stop = end + 1
            elif size - start >= LINE_LIMIT:
                stop = start + LINE_LIMIT
            else:
                break
            lines.append(data[start:stop])
            start = stop
        self._rest = data[start:]
        return lines

    def flush(self) -> list[bytes]:
        """Return what is held back."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


class JsonLog:
    """Owns the log's current file. Writing never raises: on a full disk lines are dropped and counted (faults R17)."""

    def __init__(self, target: LogTarget, fd: int | None = None) -> None:
        self._target = target
        self._fd = open_log(target) if fd is None else fd
        self._size = os.fstat(self._fd).st_size
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        attributes = target.attributes
        self._tail = f',"attrs":{dumps(attributes, ensure_ascii=False)}' if attributes else ""
        self._compressing = 0  # pid of the child that compresses the last rotated file
        self.dropped = 0

    def fileno(self) -> int:
        """Return the current file's descriptor."""
        return self._fd

    def write(self, stream: str, data: bytes) -> None:
        """Log output of ``stdout`` or ``stderr``."""
        self._write_lines(stream, self._splitters[stream].feed(data))

    def close(self) -> None:
        """Log what is held back and close."""
        for stream, splitter in self._splitters.items():
            self._write_lines(stream, splitter.flush())
        os.close(self._fd)  # what is being compressed gets ready without us

    def _write_lines(self, stream: str, lines: list[bytes]) -> None:
        if not lines:
            return
        ending = f'{self._tail},"stream":"{stream}","time":"{rfc3339_nano(time.time_ns())}"}}\n'
        limit = self._target.max_size
        buffer: list[bytes] = []
        pending = 0
        for line in lines:
            record = f'{{"log":{_encode(line.decode("utf-8", "replace"))}{ending}'.encode("utf-8", "replace")
            if limit and self._size + pending + len(record) > limit and self._size + pending > 0:
                self._append(b"".join(buffer), len(buffer))
                buffer, pending = [], 0
                self._rotate()
            buffer.append(record)
            pending += len(record)
        self._append(b"".join(buffer), len(buffer))

    def _append(self, data: bytes, count: int) -> None:
        if not data:
            return
        start = self._size
        try:
            while data:
                written = os.write(self._fd, data)
                self._size += written
                data = data[written:]
        except OSError:
            self.dropped += count
            if self._size != start:  # never leave half a record behind
                try:
                    os.ftruncate(self._fd, start)
                    self._size = start
                except OSError:
                    return

    def _rotate(self) -> None:
        target = self._target
        path, keep = target.path, target.max_files
        try:
            if keep <= 1:
                os.ftruncate(self._fd, 0)
                self._size = 0
                return
            if target.compress:
                finish_compression(self._compressing)  # as Docker does, the program waits, too, if it is that fast
            for number in range(keep - 2, 0, -1):
                self._move(f"{path}.{number}", f"{path}.{number + 1}")
            self._move(path, f"{path}.1")
            fresh = os.open(path, _FLAGS, _MODE)
        except OSError:
            return  # goes on in the old file
        os.close(self._fd)
        self._fd, self._size = fresh, 0
        if target.compress:
            self._compressing = begin_compression(f"{path}.1")

    def _move(self, old: str, new: str) -> None:
        """Rename a file that may be there, or be there compressed, over another."""
        if self._target.compress:
            for ending in ("", COMPRESSED):
                with suppress(FileNotFoundError):
                    os.unlink(new + ending)
            with suppress(FileNotFoundError):
                os.rename(old + COMPRESSED, new + COMPRESSED)
        with suppress(FileNotFoundError):
            os.rename(old, new)
