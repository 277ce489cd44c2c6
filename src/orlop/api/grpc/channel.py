"""The engine as client: calls on a connection whose other end serves, which is a session of BuildKit's clients."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orlop.api.grpc.connection import Connection
from orlop.api.grpc.status import CallError, Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.api.grpc.holdings import Ledger
    from orlop.api.grpc.stream import Stream
    from orlop.primitives.owned_fd import OwnedFd

    Metadata = Mapping[str, str | list[str]]


HEALTH = "/grpc.health.v1.Health/Check"
# As BuildKit asks its sessions (session/grpc.go): a client that is busy may be late once.
_ASK_SECONDS, _ANSWER_SECONDS, _MOST_MISSED = 5.0, 30.0, 2


class Channel:
    """One session's connection.

    Attributes:
        methods: what the client said that it serves, "/package.Service/Method".
    """

    def __init__(self, connection: Connection, methods: frozenset[str]) -> None:
        self._connection = connection
        self.methods = methods

    @classmethod
    async def begin(
        cls, fd: OwnedFd, methods: frozenset[str], *, ledger: Ledger | None = None, caller: str = ""
    ) -> Channel:
        """Begin on a stream socket, which is taken over; :meth:`run` must follow.

        Args:
            fd: the socket.
            methods: what the client said that it serves.
            ledger: of what all connections hold; None for one that is this connection's own.
            caller: whose connection it is; empty for whoever is at the other end.

        Raises:
            CallError: there is no room for it.
        """
        return cls(await Connection.begin(fd, ledger=ledger, caller=caller), methods)

    @property
    def closed(self) -> bool:
        """Whether the client has gone."""
        return self._connection.gone.is_set()

    async def wait_closed(self) -> None:
        """Return when the client has gone."""
        await self._connection.gone.wait()

    async def run(self, preface: bytes) -> None:
        """Serve the connection until the client leaves; ``preface`` is what it sent already."""
        await self._connection.run(preface)

    def close(self) -> None:
        """End the connection and all its calls."""
        self._connection.close()

    async def watch(self) -> None:
        """Ask the client now and then whether it is there, and close the connection to one that says nothing.

        Any answer will do, also that it does not know the method.
        """
        missed = 0
        while missed < _MOST_MISSED:
            await asyncio.sleep(_ASK_SECONDS)
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    with contextlib.suppress(CallError):
                        await self.unary(HEALTH, b"")
                missed = 0
            except TimeoutError:
                missed += 1
        self._connection.abort()

    async def unary(self, method: str, request: bytes, metadata: Metadata | None = None) -> bytes:
        """Call a method that takes one message and gives one.

        Raises:
            CallError: the client answered with an error, with more or less than one message, or is gone.
        """
        async with await self.stream(method, metadata) as stream:
            await stream.send(request)
            await stream.end()
            answer = await stream.receive()
            if answer is None or await stream.receive() is not None:
                raise CallError(Code.INTERNAL, f"not one message as answer: {method}")
            return answer

    async def stream(self, method: str, metadata: Metadata | None = None) -> Stream:
        """Begin a call of any kind. Raises CallError: the client is gone."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        for name, value in (metadata or {}).items():
            headers += [(name.lower(), one) for one in ([value] if isinstance(value, str) else value)]
        return await self._connection.open(headers)
