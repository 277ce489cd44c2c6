"""Pour a stream of bytes from a client into a pipe whose other end a child of the spawner reads.

::

    stream ──▶ decompress ──▶ sha256 ──▶ pipe ──▶ the child's work
               └── one batch at a time, in a worker thread ──┘
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, TypeVar

from orlop.errors import InvalidParameterError
from orlop.image.compression import Decompressor
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

T = TypeVar("T")
U = TypeVar("U")

_BATCH = 1 << 19
_PIPE = 1 << 20


async def pour(
    stream: AsyncIterator[bytes], work: Callable[[int], Coroutine[None, None, T]], *, compressed: bool = True
) -> tuple[Digest, T]:
    """Run ``work`` on the reading end of a pipe while the stream goes into it.

    Args:
        stream: read to its end.
        work: a coroutine function of a descriptor, which stays this function's.
        compressed: undo the compression that the first bytes tell; else the bytes go through as they are.

    Returns:
        The digest of what came out of the pipe, and what ``work`` returned.

    Raises:
        InvalidParameterError: damaged compression, or whatever ``work`` raises.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    task = asyncio.ensure_future(work(reader))
    # As long as this process holds the reading end, a write to a dead child's pipe would wait for ever.
    task.add_done_callback(lambda _: os.close(reader))
    feed = _Feed(writer, compressed=compressed)
    try:
        try:
            await feed.run(stream)
        except BrokenPipeError:
            await task  # says why it stopped reading
            raise InvalidParameterError("unexpected end of unpacking") from None
        feed.close()
        result = await task
    except BaseException:
        feed.close()
        if not task.done():
            # The child sees the end of the stream and stops; its error matters less than the first one.
            await ended(task)
        raise
    return Digest(feed.hash.hexdigest()), result


class _Feed:
    """Owns the writing end of the pipe: decompresses, hashes and writes, a batch at a time, in a thread."""

    def __init__(self, fd: int, *, compressed: bool) -> None:
        self.hash = hashlib.sha256()
        self._fd = fd
        self._decompressor = Decompressor() if compressed else None
        with contextlib.suppress(OSError):  # beyond the user's pipe limits the default size does
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def run(self, stream: AsyncIterator[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        async for chunk in stream:
            batch.append(chunk)
            size += len(chunk)
            if size >= _BATCH:
                await in_thread(self._write, b"".join(batch))
                batch, size = [], 0
        await in_thread(self._write_last, b"".join(batch))

    def _write(self, data: bytes) -> None:
        for piece in self._decompressor.feed(data) if self._decompressor is not None else (data,):
            self._put(piece)

    def _write_last(self, data: bytes) -> None:
        self._write(data)
        if self._decompressor is not None:
            for piece in self._decompressor.finish():
                self._put(piece)

    def _put(self, piece: bytes) -> None:
        self.hash.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self._fd, view) :]


async def in_thread(function: Callable[[U], T], argument: U) -> T:
    """Run in a worker thread; when cancelled, still wait for it: it uses a descriptor that is about to be closed."""
    future = asyncio.ensure_future(asyncio.to_thread(function, argument))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await ended(future)
        raise


async def ended(future: asyncio.Future[T]) -> None:
    """Wait for the end, also when cancelled meanwhile; what comes out does not matter.

    Raises:
        CancelledError: after the end, if cancelled.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.cancelled():
        future.exception()
    if cancelled is not None:
        raise cancelled
