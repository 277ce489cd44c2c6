"""The engine as server: a table of methods on a connection that a client gave away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, TypeVar

from orlop.api.grpc.connection import Connection
from orlop.api.grpc.status import CallError, Code, trailers
from orlop.errors import OrlopError
from orlop.primitives.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from orlop.api.grpc.holdings import Ledger
    from orlop.api.grpc.stream import Stream
    from orlop.primitives.owned_fd import OwnedFd

    Handler = Callable[[Stream], Awaitable[None]]

M = TypeVar("M", bound=Message)
_log = logging.getLogger(__name__)

_TIMEOUT = re.compile("([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_CALLS = 1500  # those that were reset and have not ended yet among them


def unary(answer: Callable[[Stream, bytes], Awaitable[bytes]]) -> Handler:
    """Return a handler of a method that takes one message, as it came, and gives one."""

    async def handle(stream: Stream) -> None:
        request = await stream.receive()
        if request is None:
            raise CallError(Code.INTERNAL, "no message as request")
        await stream.send(await answer(stream, request))

    return handle


def unary_of(kind: type[M], answer: Callable[[Stream, M], Awaitable[bytes]]) -> Handler:
    """Return a handler of a method that takes one message of a kind and gives one."""

    async def handle(stream: Stream) -> None:
        # nothing here may hold the request on: what comes of it can take long, and not all of it
        await stream.send(await answer(stream, await request_of(stream, kind)))

    return handle


async def request_of(stream: Stream, kind: type[M]) -> M:
    """Return a call's next message, which is counted until the call ends as what it is now.

    Raises:
        InvalidParameterError, CallError: it is none, or not there; too much is held.
    """
    data = await stream.receive()
    if data is None:
        raise CallError(Code.INTERNAL, "no message as request")
    request, size = kind.measured(data)
    del data
    stream.exchange(size)
    return request


class Server:
    """Answers the calls of one connection.

    Args:
        methods: handlers by "/package.Service/Method". One ends its call with OK by returning, and with an error's
            code by raising; it is cancelled when the client resets the call or leaves.
        ledger: of what all connections hold; None for one that is this connection's own.
    """

    def __init__(self, methods: Mapping[str, Handler], ledger: Ledger | None = None) -> None:
        self._methods = methods
        self._ledger = ledger
        self._calls: set[asyncio.Task[None]] = set()
        self._refuse: Callable[[], None] = lambda: None

    async def serve(self, fd: OwnedFd, preface: bytes) -> None:
        """Answer until the client leaves.

        Args:
            fd: a stream socket, which is taken over.
            preface: what the client sent already.

        Raises:
            CallError: there is no room for it.
        """
        connection = await Connection.begin(fd, self._accept, ledger=self._ledger)
        self._refuse = connection.refuse
        try:
            await connection.run(preface)
        finally:
            for call in self._calls:
                _cancel(call)
            await asyncio.gather(*self._calls, return_exceptions=True)

    def _accept(self, stream: Stream) -> None:
        if len(self._calls) >= _MOST_CALLS:
            self._refuse()
            stream.close()
            return
        call = asyncio.create_task(self._answer(stream))
        self._calls.add(call)

        def ended(_call: asyncio.Task[None]) -> None:
            self._calls.discard(call)
            stream.close()  # also of one that was cancelled: what it has not received is the connection's room

        call.add_done_callback(ended)
        stream.on_lost = lambda: _cancel(call)

    async def _answer(self, stream: Stream) -> None:
        # The error itself is not kept: its traceback holds this frame and, below it, all that came with the call.
        end = trailers(None)
        try:
            async with asyncio.timeout(_timeout(stream.metadata)):
                await self._handler(stream)(stream)
        except OrlopError as error:
            end = trailers(error)
        except TimeoutError:
            end = trailers(CallError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        except Exception:  # noqa: BLE001 - the boundary: a fault of ours ends one call
            _log.exception("call failed: %s", stream.metadata.get(":path", [""])[0][:200])
            end = trailers(CallError(Code.INTERNAL, "internal error of the engine"))
        stream.on_lost = None
        with contextlib.suppress(CallError):
            await stream.answer(end)

    def _handler(self, stream: Stream) -> Handler:
        path = stream.metadata.get(":path", [""])[0]
        if path not in self._methods:
            service, _, method = path[:200].strip("/").partition("/")
            if any(known.startswith(f"/{service}/") for known in self._methods):
                raise CallError(Code.UNIMPLEMENTED, f"unknown method {method} for service {service}")
            raise CallError(Code.UNIMPLEMENTED, f"unknown service {service}")
        return self._methods[path]


def _cancel(call: asyncio.Task[None]) -> None:
    """Cancel a call once: what it does at its end is not interrupted."""
    if not call.cancelling():
        call.cancel()


def _timeout(metadata: Mapping[str, list[str]]) -> float | None:
    """Return the seconds that a client gives a call; None for no end."""
    found = _TIMEOUT.fullmatch(metadata.get("grpc-timeout", [""])[0])
    return None if found is None else int(found[1]) * _UNITS[found[2]]
