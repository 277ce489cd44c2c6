"""Taking a client's connection away from HTTP, so that a shim can serve it.

Docker's attach and exec start are ordinary requests after whose head both sides speak raw bytes. The engine gives the
socket itself to the container's shim, so nothing of aiohttp or asyncio may read from it, close it for both, or parse
what the client sent early. Three things make that sure:

* :class:`Connection` recognises such a request by its first line, hands exactly its head and body to the HTTP parser,
  keeps every later byte aside (the *preface*) and stops reading from the socket. If the request fails and is answered
  as ordinary HTTP, the bytes go to the parser after all and reading goes on.
* :func:`hijack` writes the answer's head with ``send(2)`` to a duplicate of the descriptor and aborts the transport.
  asyncio only closes its own descriptor (it never calls ``shutdown(2)`` here): the connection lives in the duplicate.
* The handler returns :attr:`Hijacked.response`, which writes nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import socket
import sys
import termios
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from orlop.api.responses import json_response
from orlop.api.routing import SERVER
from orlop.errors import SystemFailureError, UnsupportedError
from orlop.primitives.owned_fd import OwnedFd

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.streams import StreamReader

    from orlop.api.call import Call

_log = logging.getLogger(__name__)

HEAD_LIMIT = 64 * 1024
# seconds for which the head of a hijacked connection is waited to be read, how often it is looked for in a row, and
# the longest between two looks
_READ_PATIENCE = 1.0
_EAGER_TURNS = 20
_LONGEST_PAUSE = 0.01
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

_GUARDED = re.compile(
    rb"POST (?:/v[0-9.]+)?/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start|build/sessions/[^/ ?]+/agents/[^/ ?]+|grpc"
    rb"|session)[ ?]"
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)


class Connection(RequestHandler):
    """One client connection. Beyond aiohttp's, owns the bytes held back for a request that may be hijacked.

    Attributes:
        held: those bytes; None while no such request is being handled.
        gone: set when the connection is closed, or hijacked.
    """

    __slots__ = ("_body_left", "_eof", "_head", "_in_head", "_payload", "gone", "held")

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type] # aiohttp's own signature, passed through
        self.held: bytes | None = None
        self.gone = asyncio.Event()
        self._head = b""
        self._in_head = False
        self._body_left = 0
        self._eof = False
        self._payload: StreamReader | None = None

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the HTTP parser, as far as they are its business."""
        if self.held is not None:
            data = self._feed_body(data)
            self.held += data
            return
        if self._head or self._between_requests():
            data = self._head + data
            self._head = b""
            if data.startswith(b"POST /") or b"POST /".startswith(data):
                end = data.find(b"\r\n\r\n")
                if end < 0 and len(data) < HEAD_LIMIT:
                    self._head = data
                    return
                if end >= 0 and _GUARDED.match(data):
                    self._guard(data[: end + 4], data[end + 4 :])
                    return
        self._feed(data)

    def _between_requests(self) -> bool:
        return not self._in_head and not self._messages and (self._payload is None or self._payload.is_eof())

    def _feed(self, data: bytes) -> None:
        before = self._request_count
        fresh = self._between_requests()
        super().data_received(data)
        if self._messages:
            message, payload = self._messages[-1]
            if self._payload is not None and isinstance(getattr(message, "exc", None), Exception):
                # The parser gave up within a body: its reader would wait for ever.
                self._payload.set_exception(web.RequestPayloadError("malformed body"))
                self._payload.feed_eof()
            self._payload = payload
        self._in_head = (fresh or self._in_head) and self._request_count == before

    def _guard(self, head: bytes, rest: bytes) -> None:
        length = _LENGTH.search(head)
        self._body_left = int(length[1]) if length else 0
        self.held = b""
        self._feed(head)
        self.held = self._feed_body(rest)

    def _feed_body(self, data: bytes) -> bytes:
        body, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(body)
        if body:
            self._feed(body)
        if self._body_left == 0 and self.transport is not None:
            self.transport.pause_reading()
        return rest

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell handlers that wait for the client to leave."""
        super().connection_lost(exc)
        self.gone.set()

    def eof_received(self) -> bool | None:  # type: ignore[override] # asyncio: True keeps the transport open
        """Keep the write side when a client that will be hijacked has sent everything that it wants to send."""
        self._eof = True
        return self.held is not None

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        """After an ordinary answer, what was held back is HTTP."""
        result = await super().finish_response(request, resp, start_time)
        if self.held is not None:
            held, self.held = self.held, None
            if self.transport is not None:
                self.transport.resume_reading()
                if held:
                    self.data_received(held)
                if self._eof:
                    self.close()
        return result

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no HTTP in the API's own form; a client's mistake is no error of the engine's."""
        del request
        level = logging.DEBUG if status < HTTPStatus.INTERNAL_SERVER_ERROR else logging.ERROR
        _log.log(level, "request could not be handled: %s", type(exc).__name__)
        text = (message or HTTPStatus(status).phrase).strip().split("\n", 1)[0]
        response = json_response({"message": text}, status=status)
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def take(self) -> tuple[socket.socket, bytes]:
        """Return a duplicate of the socket and the preface; the transport is dead afterwards."""
        transport = self.transport
        if transport is None:
            raise ConnectionResetError("client is gone")
        if transport.get_extra_info("sslcontext") is not None:
            raise UnsupportedError("attaching over TLS is not supported")
        if transport.get_write_buffer_size() or self._messages:
            raise SystemFailureError("request before the hijacked one is not answered yet")
        transport.pause_reading()
        original = transport.get_extra_info("socket")
        taken = socket.socket(original.family, original.type, original.proto, fileno=os.dup(original.fileno()))
        held, self.held = self.held or b"", None
        self.keep_alive(False)
        transport.abort()
        return taken, held


class Server(web.Server):
    """aiohttp's low-level server with :class:`Connection` as protocol."""

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


class _HijackedResponse(web.StreamResponse):
    """Stands for an answer that was already written outside aiohttp."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write nothing."""
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""
        del data


@dataclass(frozen=True, slots=True)
class Hijacked:
    """A connection that now belongs to the caller.

    Attributes:
        fd: the client's stream socket, non-blocking; close it or pass it on.
        preface: bytes that the client had sent before the head was written.
        response: what the handler is to return.
    """

    fd: OwnedFd
    preface: bytes
    response: web.StreamResponse


async def hijack(call: Call, *, content_type: str = RAW_STREAM, protocol: str = "tcp") -> Hijacked:
    """Answer 101 UPGRADED (or 200 to a client that asked for no upgrade) and take the connection.

    Everything that can fail with a JSON error must have been checked before, and the body read.

    Args:
        call: the request.
        content_type: of what follows.
        protocol: what is spoken from now on.

    Raises:
        ConnectionError: the client is gone.
        UnsupportedError: the connection cannot be given away.
    """
    connection = call.request.protocol
    if not isinstance(connection, Connection):
        raise UnsupportedError("this connection cannot be hijacked")
    upgrade = call.request.headers.get("Upgrade", "")
    taken, preface = connection.take()
    try:
        head = _head(content_type, protocol if upgrade else "")
        await asyncio.get_running_loop().sock_sendall(taken, head)
    except BaseException:
        taken.close()
        raise
    return Hijacked(OwnedFd(taken.detach()), preface, _HijackedResponse())


async def wait_head_read(client: int) -> None:
    """Return when the client of a hijacked connection has read the head, or after a moment.

    docker-py reads it through a buffer, and what comes after it from the socket: bytes that arrive together are lost to
    it. dockerd is too slow for that. A client that reads at once is waited for without sleeping, one on a busy machine
    for longer; over TCP the kernel does not tell when it reads. Only for those whose output waits as well: who has read
    the head goes on.
    """
    loop = asyncio.get_running_loop()
    turns, pause, end = 0, 0.001, loop.time() + _READ_PATIENCE
    while int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder) and loop.time() < end:
        turns += 1
        if turns < _EAGER_TURNS:
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _head(content_type: str, protocol: str) -> bytes:
    if protocol == "tcp":
        return (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        ).encode()
    if protocol:
        return f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode()
