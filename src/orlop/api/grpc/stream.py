"""One call on a connection: messages in both directions, whichever side began it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

from h2.errors import ErrorCodes

from orlop.api.grpc.framing import MessageReader, frame
from orlop.api.grpc.status import CallError, Code, error_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from orlop.api.grpc.connection import Connection, Headers

_ENOUGH = 128 << 10  # bytes that were received, of which the peer is told while more wait


class Stream:
    """Owns a call's state; leaving its block resets what is not over.

    What the peer sends waits here, bounded by the window that :meth:`receive` opens again: one message at most is
    taken in beyond it.

    Attributes:
        metadata: what a client sent at the beginning; names are in lower case, and a value may be there several times.
        on_lost: called when the peer resets the call or leaves; None for nobody.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        metadata: Mapping[str, list[str]],
        *,
        opening: Headers = (),
    ) -> None:
        self.metadata: Mapping[str, list[str]] = metadata
        self.number = number
        self.on_lost: Callable[[], object] | None = None
        self._connection = connection
        self._opening = opening  # a server's headers, before its first message
        self._reader = MessageReader()
        self._messages: deque[bytes] = deque()
        self._waiting = 0  # bytes of them
        self._unacknowledged = 0
        self._received = 0  # since something was acknowledged
        self._arrived = asyncio.Event()
        self._over = False  # the peer sends no more
        self._told = bool(opening)  # how the call ended, which only a server tells
        self._sent_end = False
        self._error: CallError | None = None
        self._sending = asyncio.Lock()

    @property
    def held(self) -> int:
        """Bytes of messages that were not received: whole ones, and one that is not."""
        return self._reader.held + self._waiting

    async def receive(self) -> bytes | None:
        """Return the next message; None when the peer has sent its last and, as a server, ended the call with OK.

        Raises:
            CallError: the call ended otherwise.
        """
        await self._connection.give_way()
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._over:
                self._check_end()
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._waiting -= len(message)
        self._received += len(message)
        if not self._messages:
            self._acknowledge(self._unacknowledged)
        elif self._received >= _ENOUGH:
            self._acknowledge(min(self._received, self._unacknowledged))
        return message

    def _check_end(self) -> None:
        """Raise an error if the peer's end is none: what came before it would look like everything."""
        if self._reader.held:
            raise CallError(Code.INTERNAL, "the call ended within a message")
        if not self._told:
            raise CallError(Code.INTERNAL, "the call ended without a status")

    async def send(self, message: bytes) -> None:
        """Send a message, when the peer has room for it.

        Raises:
            CallError: the call is over.
        """
        async with self._sending:
            if self._opening:
                opening, self._opening = self._opening, ()
                await self._connection.send_headers(self, opening)
            await self._connection.send(self, frame(message))

    async def end(self) -> None:
        """Say that no more comes from here; a second time it does nothing."""
        async with self._sending:
            if not self._sent_end:
                self._sent_end = True
                self._connection.end(self)

    async def answer(self, trailers: Headers) -> None:
        """End the call as its server. Raises CallError: it is over."""
        async with self._sending:
            self._sent_end = True
            await self._connection.send_headers(self, [*self._opening, *trailers], last=True)
            if not self._over:
                self._connection.reset(self, ErrorCodes.NO_ERROR)

    def reset(self, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """End the call at once; one that is over stays as it is."""
        self._connection.reset(self, code)
        self.on_lost = None
        self.fail(CallError(Code.CANCELLED, "call was cancelled"))

    def check(self) -> None:
        """Raise the error that the call ended with, if it did."""
        if self._error is not None:
            raise self._error

    # What the connection tells.

    def take(self, data: bytes, length: int) -> None:
        """Take bytes of the peer's, which count ``length`` of its window. Raises InvalidParameterError."""
        self._unacknowledged += length
        for message in self._reader.feed(data):
            self._messages.append(message)
            self._waiting += len(message)
        if not self._messages:
            self._acknowledge(self._unacknowledged)  # what came is a part of the message that is wanted next
        self._arrived.set()

    def take_trailers(self, headers: Mapping[str, str]) -> None:
        """Take how a server ended the call."""
        self._told = True
        self._error = self._error or error_in(headers)

    def finish(self) -> None:
        """Know that the peer sends no more."""
        self._over = True
        self._arrived.set()

    def fail(self, error: CallError) -> None:
        """Know that the call ended; what came before is still received."""
        if self.on_lost is not None:
            self.on_lost()
        if not self._over:
            self._error = self._error or error
        self.finish()

    def _acknowledge(self, length: int) -> None:
        self._unacknowledged -= length
        self._received = 0
        if length:
            self._connection.acknowledge(self, length)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Reset the call if it is not over, and forget what was not received."""
        if not (self._over and self._sent_end):
            self.reset()
        self._messages.clear()
        self._waiting = 0
        self._acknowledge(self._unacknowledged)
        self._connection.forget(self)
