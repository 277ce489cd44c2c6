"""Reading a container's log: tail, time range, follow across rotations."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, inotify_add_watch, inotify_init1
from orlop.logs.files import LineReader, LogFile, open_all, open_log, open_since, tail_offset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from orlop.logs.entry import LogEntry

# Entries handled in one go: other requests get their turn in between.
_BURST = 500


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What of a log is wanted.

    Attributes:
        tail: how many last lines; None for all.
        since: nanoseconds, entries from then on; 0 for the beginning.
        until: nanoseconds, entries up to then; 0 for no end.
        stdout: entries of standard output.
        stderr: entries of standard error.
    """

    tail: int | None = None
    since: int = 0
    until: int = 0
    stdout: bool = True
    stderr: bool = True

    def accepts(self, entry: LogEntry) -> bool:
        """Whether an entry is wanted, apart from its place in the file."""
        if not (self.stdout if entry.stream == "stdout" else self.stderr):
            return False
        return entry.time >= self.since and (self.until == 0 or entry.time <= self.until)


async def read_log(path: str, query: LogQuery, *, follow: asyncio.Event | None = None) -> AsyncIterator[LogEntry]:
    """Yield entries, oldest first.

    Args:
        path: of the current log file; it may not exist yet.
        query: what is wanted.
        follow: go on with what is written later until this is set (the container ended) and the file is read out.
    """
    files = open_all(path)
    try:
        readers = await _positioned(files, query.tail, os.path.dirname(path))
        for count, entry in enumerate(_from(readers), 1):
            if count % _BURST == 0:
                await asyncio.sleep(0)
            if query.accepts(entry):
                yield entry
        if follow is not None:
            async for entry in _follow(path, files, readers[-1] if readers else None, follow):
                if query.until and entry.time > query.until:
                    return
                if query.accepts(entry):
                    yield entry
    finally:
        for file in files:
            file.close()


def _from(readers: list[LineReader]) -> Iterator[LogEntry]:
    for reader in readers:
        yield from reader.entries()


async def _positioned(files: list[LogFile], tail: int | None, directory: str) -> list[LineReader]:
    """Return a reader of each file, where what is wanted of it begins; what is compressed and not wanted is left so."""
    readers: list[LineReader] = []
    left = tail
    for file in reversed(files):
        if left == 0:
            # Nothing of this file; the current one is still followed from its end.
            readers.insert(0, LineReader(file.fd, os.fstat(file.fd).st_size))
            continue
        if file.compressed:
            await _expand(file, directory)
        offset = 0
        if left is not None:
            offset, found = tail_offset(file.fd, left)
            left -= found
        readers.insert(0, LineReader(file.fd, offset))
    return readers


async def _expand(file: LogFile, directory: str) -> None:
    expanding = asyncio.ensure_future(asyncio.to_thread(file.expand, directory))
    try:
        await asyncio.shield(expanding)
    finally:
        await asyncio.wait([expanding])  # of a client that has left, too: it uses the descriptor to its end


class _Watch:
    """Wakes up when something in a directory changes."""

    def __init__(self, directory: str) -> None:
        self._fd = inotify_init1()
        self._loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        try:
            inotify_add_watch(self._fd, directory, IN_MODIFY | IN_CREATE | IN_MOVED_TO)
        except BaseException:
            os.close(self._fd)
            raise
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                pass
        self.changed.set()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


async def _follow(
    path: str,
    files: list[LogFile],
    reader: LineReader | None,
    ended: asyncio.Event,
) -> AsyncIterator[LogEntry]:
    watch = _Watch(os.path.dirname(path))
    try:
        while True:
            watch.changed.clear()
            last = ended.is_set()
            if reader is not None:
                for entry in reader.entries():
                    yield entry
            if fresh := _rotated(path, files):
                if reader is not None:
                    # What was written between our last read and the rotation.
                    for entry in reader.entries():
                        yield entry
                for file in fresh:
                    if file.compressed:
                        await _expand(file, os.path.dirname(path))
                    reader = LineReader(file.fd)
                    if file is not fresh[-1]:
                        for entry in reader.entries():
                            yield entry
                while len(files) > 1:
                    files.pop(0).close()
                continue
            if last:
                return
            await _either(watch.changed, ended)
    finally:
        watch.close()


def _rotated(path: str, files: list[LogFile]) -> list[LogFile]:
    """Open what was begun after the last file that we have, which may be more than the one that is written now."""
    current = open_log(path)
    if current is None:
        return []
    try:
        if files and os.path.samestat(os.fstat(current), os.fstat(files[-1].fd)):
            return []
    finally:
        os.close(current)
    fresh = open_since(path, files[-1]) if files else open_all(path)
    files += fresh
    return fresh


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
