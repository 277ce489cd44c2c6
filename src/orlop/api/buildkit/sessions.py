"""The sessions that clients have open, by the names that their builds know them by.

One is a connection of its own (``POST /session``), or HTTP/2 within the messages of a call (``Control/Session``); what
is said of it in headers is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.api.buildkit.messages import BytesMessage
from orlop.api.grpc.channel import Channel
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError
from orlop.primitives.owned_fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.api.grpc.holdings import Ledger
    from orlop.api.grpc.stream import Stream

_NAME = "x-docker-expose-session-uuid"
_SHARED_KEY = "x-docker-expose-session-sharedkey"
_METHOD = "x-docker-expose-session-grpc-method"
_MOST_METHODS = 100
_PIECE = 1 << 15
_SECONDS = 5.0  # in which a build's session has to come, as in BuildKit


@dataclass(frozen=True, slots=True)
class OpenSession:
    """One session.

    Attributes:
        channel: to the client.
        shared_key: the client's name of the directory that it builds; empty for none.
    """

    channel: Channel
    shared_key: str


class OpenSessions:
    """Owns none of them: they are here as long as their connections.

    Args:
        ledger: of what all connections hold; None for one that is each session's own.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger
        self._names: set[str] = set()  # also of those that are about to be open
        self._open: dict[str, OpenSession] = {}
        self._came = asyncio.Event()

    def name_in(self, headers: Mapping[str, Sequence[str]]) -> str:
        """Return the name of a session that is about to begin.

        Raises:
            InvalidParameterError: it has none.
            ConflictError: there is one of this name.
        """
        name = next(iter(headers.get(_NAME, ())), "")
        if not name:
            raise InvalidParameterError("missing session id")
        if name in self._names:
            raise ConflictError(f"session {name[:80]} already exists")
        return name

    async def serve(
        self, headers: Mapping[str, Sequence[str]], fd: OwnedFd, preface: bytes, *, caller: str = ""
    ) -> None:
        """Have a session until its client leaves.

        Args:
            headers: what is said of it, by names in lower case.
            fd: a stream socket, which is taken over.
            preface: what the client sent already.
            caller: whose it is; empty for whoever is at the other end of the socket.

        Raises:
            CallError: there is no room for it.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(fd.close)  # which does nothing when it is taken over
            name = self.name_in(headers)
            self._names.add(name)
            stack.callback(self._names.discard, name)
            methods = frozenset(headers.get(_METHOD, ())[:_MOST_METHODS])
            channel = await Channel.begin(fd, methods, ledger=self._ledger, caller=caller)
            self._open[name] = OpenSession(channel, next(iter(headers.get(_SHARED_KEY, ())), ""))
            stack.callback(self._open.pop, name)
            came, self._came = self._came, asyncio.Event()
            came.set()
            watching = asyncio.create_task(channel.watch())
            stack.callback(watching.cancel)
            await channel.run(preface)

    async def serve_within(self, stream: Stream) -> None:
        """Have a session whose bytes are a call's messages, until one of both ends."""
        self.name_in(stream.metadata)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        tasks = [
            asyncio.create_task(
                self.serve(stream.metadata, OwnedFd(theirs.detach()), b"", caller=stream.caller),
            ),
            asyncio.create_task(_copy_in(stream, writer)),
            asyncio.create_task(_copy_out(reader, stream)),
        ]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            writer.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def wait(self, name: str) -> OpenSession:
        """Return a session, which may be about to come. Raises NotFoundError."""
        try:
            async with asyncio.timeout(_SECONDS):
                while name not in self._open:
                    await self._came.wait()
        except TimeoutError:
            raise NotFoundError(f"no active session for {name}: context deadline exceeded") from None
        return self._open[name]


async def _copy_in(stream: Stream, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while (message := await stream.receive()) is not None:
            writer.write(BytesMessage.decode(message).data)
            await writer.drain()


async def _copy_out(reader: asyncio.StreamReader, stream: Stream) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PIECE):
            await stream.send(BytesMessage(data=data).encode())
