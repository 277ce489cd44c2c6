"""A client's SSH agent, forwarded to RUN steps through one connection.

::

    step ──▶ socket pair ──▶ frames ──▶ client ──▶ the user's agent
    frame: channel (4 bytes), length (4 bytes), that many bytes; a length of 0 closes the channel (all big endian)

Each connection of a step is a channel of its own: an agent may keep state with a connection. Nothing is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

from orlop.errors import OrlopError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from orlop.primitives.owned_fd import OwnedFd

_HEAD = struct.Struct(">II")
_PIECE = 1 << 16
_LONGEST = 1 << 20
_MOST_CONNECTIONS = 64  # of one step at a time, each with four descriptors of the engine's


class Agent:
    """Owns the connection to one client's agent, from :meth:`run`'s beginning to its end."""

    def __init__(self) -> None:
        self._client: asyncio.StreamWriter | None = None
        self._channels: dict[int, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last = 0
        self._ready = asyncio.Event()

    async def run(self, connection: OwnedFd, preface: bytes) -> None:
        """Serve until the client leaves, or says what is no frame.

        Args:
            connection: a stream socket, which is taken over.
            preface: what the client sent already.
        """
        sock = socket.socket(fileno=connection.release())
        sock.setblocking(False)
        reader, self._client = await asyncio.open_connection(sock=sock)
        self._ready.set()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    preface = await self._frame(reader, preface)
        finally:
            self.close()

    async def _frame(self, reader: asyncio.StreamReader, preface: bytes) -> bytes:
        """Take one frame; returns what is left of the preface."""
        head, preface = await _exactly(reader, preface, _HEAD.size)
        number, length = _HEAD.unpack(head)
        if length > _LONGEST:
            raise ConnectionError
        data, preface = await _exactly(reader, preface, length)
        channel = self._channels.get(number)
        if channel is not None and not data:
            del self._channels[number]
            channel.close()
        elif channel is not None:
            channel.write(data)
            with contextlib.suppress(ConnectionError):
                await channel.drain()
        return preface

    async def connect(self) -> socket.socket:
        """Return a stream to the agent, which the caller owns.

        Raises:
            UnavailableError: the client has gone.
        """
        await self._ready.wait()
        if self._client is None:
            raise UnavailableError("the client's SSH agent is gone")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._last += 1
        number = self._last
        reader, self._channels[number] = await asyncio.open_connection(sock=ours)
        task = asyncio.create_task(self._copy(number, reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return theirs

    async def _copy(self, number: int, reader: asyncio.StreamReader) -> None:
        """Send what a step says to its end, which closes the channel."""
        with contextlib.suppress(ConnectionError):
            while (data := await reader.read(_PIECE)) and self._client is not None:
                self._client.write(_HEAD.pack(number, len(data)) + data)
                await self._client.drain()
        if number in self._channels and self._client is not None:  # also of one that broke
            self._channels.pop(number).close()
            self._client.write(_HEAD.pack(number, 0))

    def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        self._ready.set()
        if client is not None:
            client.close()
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        for task in self._tasks:
            task.cancel()


async def _exactly(reader: asyncio.StreamReader, preface: bytes, count: int) -> tuple[bytes, bytes]:
    here, preface = preface[:count], preface[count:]
    return here + (await reader.readexactly(count - len(here)) if len(here) < count else b""), preface


@contextlib.asynccontextmanager
async def listen(path: str, connect: Callable[[], Coroutine[None, None, socket.socket]]) -> AsyncIterator[None]:
    """Listen at ``path``, open to root alone, and join with the client's agent each of so many that connect."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(tasks) >= _MOST_CONNECTIONS:
            writer.close()
            return
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(OrlopError, OSError), contextlib.closing(writer):
            theirs_reader, theirs_writer = await asyncio.open_connection(sock=await connect())
            with contextlib.closing(theirs_writer):
                await asyncio.gather(_pass(reader, theirs_writer), _pass(theirs_reader, writer))

    server = await asyncio.start_unix_server(serve, path)
    try:
        os.chmod(path, 0o600)
        yield
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
