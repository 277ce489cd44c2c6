"""Routes of BuildKit's protocol: both connections are taken away from HTTP/1.1, and speak gRPC over HTTP/2.

::

    POST /grpc       the client calls: Control, LLBBridge               (api/buildkit/services.py)
    POST /session    the client is called: for files, secrets, logins   (api/buildkit/client_session.py)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orlop.api.buildkit.services import methods
from orlop.api.buildkit.sessions import OpenSessions
from orlop.api.call import Call, Route
from orlop.api.grpc.holdings import Ledger
from orlop.api.grpc.server import Server
from orlop.api.grpc.status import CallError
from orlop.api.hijack import hijack
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.api.buildkit.exporting import Exporting
    from orlop.engine.builds import BuildService

_PROTOCOL = "h2c"


def routes(builds: BuildService, exporting: Exporting, engine_id: str, version: str) -> list[Route]:
    """Return the routes."""
    ledger = Ledger()
    sessions = OpenSessions(ledger)
    table = methods(builds, exporting, sessions, engine_id=engine_id, version=version)

    async def serve(call: Call) -> web.StreamResponse:
        _require_upgrade(call)
        hijacked = await hijack(call, protocol=_PROTOCOL)
        with contextlib.suppress(CallError):  # who is not served was told
            await Server(table, ledger).serve(hijacked.fd, hijacked.preface)
        return hijacked.response

    async def open_session(call: Call) -> web.StreamResponse:
        _require_upgrade(call)
        headers: dict[str, list[str]] = {}
        for name, value in call.request.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        sessions.name_in(headers)
        hijacked = await hijack(call, protocol=_PROTOCOL)
        with contextlib.suppress(CallError):
            await sessions.serve(headers, hijacked.fd, hijacked.preface)
        return hijacked.response

    return [Route("POST", "/grpc", serve, prompt=True), Route("POST", "/session", open_session, prompt=True)]


def _require_upgrade(call: Call) -> None:
    protocol = call.request.headers.get("Upgrade", "")
    if not protocol:
        raise InvalidParameterError("no upgrade proto in request")
    if protocol.lower() != _PROTOCOL:
        raise InvalidParameterError(f"protocol {protocol[:80]} not supported")
