"""Routes beside Docker's API: what ``POST /build?session=`` refers to (docs/reference/builds.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.hijack import RAW_STREAM, hijack
from orlop.api.responses import empty, json_response
from orlop.engine.builds.context_files import MANIFEST_LIMIT
from orlop.engine.builds.sessions import SessionRequest

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.engine.builds.sessions import Sessions


def routes(sessions: Sessions) -> list[Route]:
    """Return the routes."""

    async def create(call: Call) -> web.Response:
        return json_response({"Id": sessions.create(await call.body(SessionRequest)).id}, status=201)

    async def end(call: Call) -> web.Response:
        sessions.end(sessions.get(call.variables["id"]))
        return empty()

    async def announce(call: Call) -> web.Response:
        session = sessions.get(call.variables["id"])
        data = await call.read(MANIFEST_LIMIT)
        return json_response({"Missing": await sessions.announce(session, call.variables["name"], data)})

    async def receive(call: Call) -> web.Response:
        sessions.get(call.variables["id"])
        await sessions.receive(call.chunks())
        return empty()

    async def agent(call: Call) -> web.StreamResponse:
        found = sessions.get(call.variables["id"]).agent(call.variables["name"])
        hijacked = await hijack(call, content_type=RAW_STREAM)
        await found.run(hijacked.fd, hijacked.preface)
        return hijacked.response

    return [
        Route("POST", "/build/sessions", create),
        Route("DELETE", "/build/sessions/{id}", end),
        Route("POST", "/build/sessions/{id}/contexts/{name}", announce),
        Route("POST", "/build/sessions/{id}/files", receive),
        Route("POST", "/build/sessions/{id}/agents/{name}", agent),
    ]
