"""One call on a connection: messages in both directions, whichever side began it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

from h2.errors import ErrorCodes

from orlop.api.grpc.framing import MessageReader, frame
from orlop.api.grpc.holdings import Holding
from orlop.api.grpc.status import CallError, Code, error_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from orlop.api.grpc.connection import Connection, Headers

_ENOUGH = 32 << 10  # bytes that were received, of which the peer is told while more wait


class Stream:
    """Owns a call's state; leaving its block resets what is not over.

    What the peer sends waits here, bounded by the window, which opens again when a message is done with: when the next
    is asked for, or the call ends. A message that somebody waits for is taken in beyond it, if the connection may hold
    all of it.

    Attributes:
        metadata: what a client sent at the beginning; names are in lower case, and a value may be there several times.
        on_lost: called when the peer resets the call or leaves; None for nobody.
        holding: what is counted of the call itself; let go at its end.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        metadata: Mapping[str, list[str]],
        holding: Holding,
        *,
        opening: Headers = (),
    ) -> None:
        self.holding = holding
        self.metadata: Mapping[str, list[str]] = metadata
        self.number = number
        self.on_lost: Callable[[], object] | None = None
        self._connection = connection
        self._opening = opening  # a server's headers, before its first message
        self._reader = MessageReader()
        self._messages: deque[bytes] = deque()
        self._unacknowledged = 0
        self._received = 0  # since something was acknowledged
        self._is_awaited = False
        self._in_hand = False  # a message that was received
        self._long = Holding(connection.account)  # the message that comes or came beyond the window
        self._request = Holding(connection.account)
        self._refusal: CallError | None = None  # of what the peer sends; what is sent to it is not concerned
        self._arrived = asyncio.Event()
        self._over = False  # the peer sends no more
        self._told = bool(opening)  # how the call ended, which only a server tells
        self._sent_end = False
        self._error: CallError | None = None
        self._sending = asyncio.Lock()

    @property
    def caller(self) -> str:
        """Whose connection it is on."""
        return self._connection.account.caller

    async def receive(self) -> bytes | None:
        """Return the next message; None when the peer has sent its last and, as a server, ended the call with OK.

        Raises:
            CallError: the call ended otherwise, or the message is more than may be held.
        """
        await self._connection.give_way()
        self._settle()
        self._is_awaited = True
        self._take_in_more()
        try:
            while not self._messages:
                if self._error is not None:
                    raise self._error
                if self._refusal is not None:
                    raise self._refusal
                if self._over:
                    self._check_end()
                    return None
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            self._is_awaited = False
        message = self._messages.popleft()
        self._received += len(message)
        self._in_hand = True
        return message

    def exchange(self, size: int) -> None:
        """Have what was made of the message that came last counted instead of it, until the call ends.

        Args:
            size: bytes of what was made.

        Raises:
            CallError: that is more than may be held.
        """
        self._settle()
        self._request.add(size)

    def hand_over(self) -> Holding:
        """Return what :meth:`exchange` counts, to be let go by who holds it on when the call has ended."""
        request, self._request = self._request, Holding(self._connection.account)
        return request

    def _settle(self) -> None:
        """Be done with the message that was received last."""
        if self._in_hand:
            self._in_hand = False
            self._long.let_go()
        if not self._messages and not self._reader.held:
            self._acknowledge(self._unacknowledged)
        elif self._received >= _ENOUGH:
            self._acknowledge(min(self._received, self._unacknowledged))

    def _take_in_more(self) -> None:
        """Open the window for the rest of the message that is waited for, if it may be held."""
        if self._messages or not self._reader.held:
            return
        missing = self._reader.expected - self._long.size
        try:
            if missing > 0:
                self._long.add(missing)
        except CallError as error:
            self._refusal = error
            self._reader = MessageReader()
        self._acknowledge(self._unacknowledged)

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
        if self._refusal is not None:
            self._acknowledge(self._unacknowledged)
            return
        self._messages += self._reader.feed(data)
        if self._is_awaited:
            self._take_in_more()
        if self._messages or self._refusal is not None:
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
        """Reset the call if it is not over, and forget what was not received; a second time it does nothing."""
        if not (self._over and self._sent_end):
            self._sent_end = True
            self.reset()
        self._messages.clear()
        self._reader = MessageReader()
        self._acknowledge(self._unacknowledged)
        for holding in (self.holding, self._long, self._request):
            holding.let_go()
        self._connection.forget(self)
