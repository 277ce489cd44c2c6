"""WebSockets (RFC 6455) that carry a stream: a client's frames on one side, bytes on the other.

Unlike a hijacked connection (``hijack.py``) this one stays the engine's, and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, WSMsgType, web

from orlop.errors import InvalidParameterError
from orlop.primitives.owned_fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from orlop.api.call import Call

_PIECE = 1 << 16
_CLOSING_SECONDS = 5.0  # for a client to answer the close frame


class WebSocket:
    """One client's, answered when it is entered and closed when it is left.

    Attributes:
        response: what the handler is to return.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        # What a client calls its protocol is taken: a browser ends a connection on which none of its own was.
        named = call.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        self.response = web.WebSocketResponse(timeout=_CLOSING_SECONDS, protocols=[name.strip() for name in named])

    async def __aenter__(self) -> WebSocket:
        """Raises InvalidParameterError: the request asks for no WebSocket."""
        if not self.response.can_prepare(self._call.request):
            raise InvalidParameterError("not websocket protocol")
        self._call.stream = self.response  # from here on nothing else can be answered
        await self.response.prepare(self._call.request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = error is not None and not isinstance(error, ConnectionError)
        await self.response.close(code=WSCloseCode.INTERNAL_ERROR if failed else WSCloseCode.OK)

    async def send(self, data: bytes) -> None:
        """Send one binary frame. Raises ConnectionError: the client is gone."""
        await self.response.send_bytes(data)

    async def join(self, give: Callable[[OwnedFd], Awaitable[None]]) -> None:
        """Give a stream socket away and pass bytes between it and the client until either has no more to say."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            await give(OwnedFd(theirs.detach()))
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        said = asyncio.ensure_future(self._pass_on(writer))
        try:
            with contextlib.suppress(ConnectionError):  # the client left in the middle of a frame
                while data := await reader.read(_PIECE):
                    await self.send(data)
        finally:
            said.cancel()
            await asyncio.wait([said])
            writer.close()

    async def _pass_on(self, writer: asyncio.StreamWriter) -> None:
        """Pass on what the client says; when it closes, or breaks the protocol, close the other side, too."""
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            async for message in self.response:
                if message.type not in {WSMsgType.BINARY, WSMsgType.TEXT}:
                    return
                writer.write(message.data if message.type is WSMsgType.BINARY else message.data.encode())
                await writer.drain()
