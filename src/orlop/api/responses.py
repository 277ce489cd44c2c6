"""Answers: JSON documents, empty ones, and streams of lines or bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    from types import TracebackType

    from orlop.api.call import Call

_encoder = msgspec.json.Encoder()
# Clients parse "application/json" literally: no charset parameter, as dockerd.
_JSON = {"Content-Type": "application/json"}


def json_response(value: object, *, status: int = 200) -> web.Response:
    """Answer with a JSON document (a Struct, dict, list or plain value), closed by a newline as Go's encoder does."""
    return web.Response(body=_encoder.encode(value) + b"\n", status=status, headers=_JSON)


def empty(status: int = 204) -> web.Response:
    """Answer without a body."""
    return web.Response(status=status)


class ByteStream:
    """A chunked answer of unknown length.

    The head is sent with the first write or by :meth:`flush`; an error raised before that is an ordinary JSON error.
    Raises ConnectionError when the client is gone.
    """

    def __init__(self, call: Call, *, content_type: str, status: int = 200) -> None:
        self._request = call.request
        self.response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
        call.stream = self.response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is None:
            await self.flush()
            await self.response.write_eof()

    async def flush(self) -> None:
        """Send the head, so that the client knows that the stream has begun."""
        if not self.response.prepared:
            await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client does not read."""
        await self.flush()
        if data:
            await self.response.write(data)


class JsonStream(ByteStream):
    """A stream of JSON documents, one a line."""

    def __init__(self, call: Call, *, content_type: str = "application/json") -> None:
        super().__init__(call, content_type=content_type)

    async def send(self, value: object) -> None:
        """Send one document."""
        await self.write(_encoder.encode(value) + b"\r\n")
