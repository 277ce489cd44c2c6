"""Routes of exec sessions."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.hijack import MULTIPLEXED_STREAM, RAW_STREAM, hijack, wait_head_read
from orlop.api.responses import empty, json_response
from orlop.errors import OrlopError
from orlop.logs.entry import frame
from orlop.runtime.clients import end_connection
from orlop.spec.docker.containers import ExecCreate, ExecStart, decode

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.engine.exec import ExecService
    from orlop.primitives.owned_fd import OwnedFd

_MULTIPLEXED_SINCE = (1, 42)


def routes(execs: ExecService) -> list[Route]:
    """Return the routes."""
    handlers = _Handlers(execs)
    return [
        Route("POST", "/containers/{name}/exec", handlers.create, prompt=True),
        Route("POST", "/exec/{id}/start", handlers.start, prompt=True),
        Route("POST", "/exec/{id}/resize", handlers.resize, prompt=True),
        Route("GET", "/exec/{id}/json", handlers.inspect),
    ]


class _Handlers:
    def __init__(self, execs: ExecService) -> None:
        self._execs = execs

    async def create(self, call: Call) -> web.Response:
        request = decode(await call.body_object(), ExecCreate)
        return json_response({"Id": self._execs.create(call.variables["name"], request)}, status=201)

    async def start(self, call: Call) -> web.StreamResponse:
        body = decode(await call.body_object(), ExecStart)
        session = self._execs.require_startable(call.variables["id"])
        if body.detach:
            await self._execs.start(session, None)
            return empty(200)
        tty = body.tty  # what the stream looks like is said here, whatever the process has (dockerd, docker-py)
        raw = tty or call.version < _MULTIPLEXED_SINCE
        hijacked = await hijack(call, content_type=RAW_STREAM if raw else MULTIPLEXED_STREAM)
        with hijacked.fd:
            await wait_head_read(hijacked.fd.fileno())
            try:
                self._execs.require_startable(session.id)  # another start may have been faster
                client = hijacked.fd.duplicate()
                await self._execs.start(
                    session, client, multiplexed=not tty, preface=hijacked.preface, console_size=body.console_size
                )
            except OrlopError as error:
                # The head has been sent: as dockerd, the text goes into the stream; inspect has the exit code.
                text = f"{error}\r\n".encode()
                _send_last(hijacked.fd, text if tty else frame("stderr", text))
        return hijacked.response

    async def resize(self, call: Call) -> web.Response:
        await self._execs.resize(
            call.variables["id"], height=call.integer("h", 0) or 0, width=call.integer("w", 0) or 0
        )
        return empty(200)

    async def inspect(self, call: Call) -> web.Response:
        return json_response(self._execs.inspect(call.variables["id"]))


def _send_last(client: OwnedFd, data: bytes) -> None:
    """Send a few bytes to a socket that was just opened, and end it: they fit its buffer, or nobody reads them."""
    with contextlib.suppress(OSError):
        os.write(client.fileno(), data)
    end_connection(socket.socket(fileno=client.duplicate().release()))
