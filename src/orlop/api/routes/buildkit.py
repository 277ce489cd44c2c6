"""Routes of BuildKit's protocol: both connections are taken away from HTTP/1.1, and speak gRPC over HTTP/2.

::

    POST /grpc       the client calls: Control, LLBBridge               (api/buildkit/services.py)
    POST /session    the client is called: for files, secrets, logins   (api/buildkit/client_session.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.buildkit.services import methods
from orlop.api.buildkit.sessions import OpenSession, OpenSessions
from orlop.api.call import Call, Route
from orlop.api.grpc.channel import Channel
from orlop.api.grpc.server import Server
from orlop.api.hijack import hijack
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.api.buildkit.exporting import Exporting
    from orlop.engine.builds import BuildService

_PROTOCOL = "h2c"
_NAME = "X-Docker-Expose-Session-Uuid"
_SHARED_KEY = "X-Docker-Expose-Session-Sharedkey"
_METHOD = "X-Docker-Expose-Session-Grpc-Method"
_MOST_METHODS = 100


def routes(builds: BuildService, exporting: Exporting, engine_id: str, version: str) -> list[Route]:
    """Return the routes."""
    sessions = OpenSessions()
    table = methods(builds, exporting, sessions, engine_id=engine_id, version=version)

    async def serve(call: Call) -> web.StreamResponse:
        _require_upgrade(call)
        hijacked = await hijack(call, protocol=_PROTOCOL)
        await Server(table).serve(hijacked.fd, hijacked.preface)
        return hijacked.response

    async def open_session(call: Call) -> web.StreamResponse:
        _require_upgrade(call)
        headers = call.request.headers
        name = headers.get(_NAME, "")
        if not name:
            raise InvalidParameterError("missing session id")
        sessions.require_new(name)
        offered = headers.getall(_METHOD, [])[:_MOST_METHODS]
        hijacked = await hijack(call, protocol=_PROTOCOL)
        channel = await Channel.begin(hijacked.fd, frozenset(offered))
        sessions.add(name, OpenSession(channel, headers.get(_SHARED_KEY, "")))
        try:
            await channel.run(hijacked.preface)
        finally:
            sessions.remove(name)
        return hijacked.response

    return [Route("POST", "/grpc", serve), Route("POST", "/session", open_session)]


def _require_upgrade(call: Call) -> None:
    protocol = call.request.headers.get("Upgrade", "")
    if not protocol:
        raise InvalidParameterError("no upgrade proto in request")
    if protocol.lower() != _PROTOCOL:
        raise InvalidParameterError(f"protocol {protocol[:80]} not supported")
