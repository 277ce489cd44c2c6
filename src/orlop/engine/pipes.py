"""The reading end of a pipe on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIECE = 1 << 18
_PIPE = 1 << 20


@contextlib.asynccontextmanager
async def open_pipe() -> AsyncIterator[tuple[AsyncIterator[bytes], int]]:
    """Make a pipe; give what comes out of it, up to its end of file, and the writing end, which the caller closes."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # beyond the user's pipe limits the default size does
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE)
    reader = asyncio.StreamReader(limit=_PIECE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    try:
        yield _pieces(reader), writing
    finally:
        transport.close()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(_PIECE):
        yield data
