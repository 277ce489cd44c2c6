"""Routes of the engine as a whole: ping, version, info, events, disk usage, and what this engine refuses by name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from orlop.api.call import Call, Handler, Route
from orlop.api.moments import parse_moment
from orlop.api.responses import JsonStream, json_response
from orlop.api.routes.images import summary
from orlop.api.routes.volumes import document as volume_document
from orlop.api.routing import API_VERSION, MIN_API_VERSION, version_text
from orlop.engine.events import EventFilter
from orlop.errors import InvalidParameterError, NotFoundError, UnavailableError, UnsupportedError
from orlop.network.requests import NOT_A_MANAGER
from orlop.spec.timestamps import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.engine.builds import CacheEntry
    from orlop.engine.disk_usage import DiskUsage
    from orlop.engine.events import Event, Events
    from orlop.engine.system import SystemService

_PING_HEADERS = {
    # 1: clients without buildx use the classic builder; with it they speak BuildKit's protocol whatever is said here.
    "Builder-Version": "1",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
    "Content-Type": "text/plain; charset=utf-8",
}
_PARENTS_SINCE = (1, 42)


def routes(system: SystemService, *, events: Events, disk: DiskUsage) -> list[Route]:
    """Return the routes."""

    async def ping(_call: Call) -> web.Response:
        return web.Response(body=b"OK", headers=_PING_HEADERS)

    async def version(_call: Call) -> web.Response:
        return json_response(
            system.version(api_version=version_text(API_VERSION), minimum=version_text(MIN_API_VERSION))
        )

    async def info(call: Call) -> web.Response:
        document = system.info()
        if call.version >= (1, 49):
            document["FirewallBackend"] = system.firewall_backend()
        if call.version < (1, 39):
            document["SecurityOptions"] = [str(option) for option in system.facts.security_options]
        return json_response(document)

    async def disk_usage(call: Call) -> web.Response:
        kinds = frozenset(call.texts("type"))
        if unknown := kinds - {"container", "image", "volume", "build-cache"}:
            raise InvalidParameterError(f"unknown object type: {min(unknown)}")
        return json_response(await _disk_usage(call, disk, kinds))

    async def listen(call: Call) -> web.StreamResponse:
        since, until = parse_moment(call.text("since")), parse_moment(call.text("until"))
        if since is not None and until is not None and since > until:
            raise InvalidParameterError("`since` time cannot be after `until` time")
        wanted = EventFilter(call.filters())
        async with events.subscribe(wanted, since_ns=since, until_ns=until) as stream, JsonStream(call) as answer:
            await answer.flush()
            gone = asyncio.ensure_future(call.wait_gone())
            try:
                while (event := await _next_or_gone(stream, gone)) is not None:
                    await answer.send(event.document())
            finally:
                gone.cancel()
        return answer.response

    return [
        Route("GET", "/_ping", ping),
        Route("GET", "/version", version),
        Route("GET", "/info", info),
        Route("GET", "/events", listen),
        Route("GET", "/system/df", disk_usage),
        Route(
            "POST", "/build/cancel", _refuse("builds of BuildKit are not supported; a classic one ends with its client")
        ),
        *(Route(method, path, _refuse("checkpoints are not supported")) for method, path in _CHECKPOINTS),
        Route("GET", "/plugins", _no_plugins),
        *(Route(method, path, _no_such_plugin) for method, path in _OF_A_PLUGIN),
        Route("GET", "/plugins/{name:.*}", _refuse("plugins are not supported")),
        Route("POST", "/plugins/{name:.*}", _refuse("plugins are not supported")),
        *(Route(method, path, _not_a_manager) for method, path in _SWARM),
    ]


async def _disk_usage(call: Call, disk: DiskUsage, kinds: frozenset[str]) -> dict[str, object]:
    """Return the document of ``/system/df`` for these kinds of objects, all when empty."""
    document: dict[str, object] = {}
    if not kinds or "image" in kinds:
        size, rows = disk.images()
        document["LayersSize"] = size
        document["Images"] = [
            summary(image, version=call.version, containers=users, shared=shared) for image, users, shared in rows
        ]
    if not kinds or "container" in kinds:
        document["Containers"] = await disk.containers()
    if not kinds or "volume" in kinds:
        document["Volumes"] = [
            {**volume_document(volume), "UsageData": {"RefCount": users, "Size": size}}
            for volume, size, users in await disk.volumes()
        ]
    if not kinds or "build-cache" in kinds:
        document["BuildCache"] = [_cache_entry(call, entry) for entry in await disk.build_cache()]
    return document


def _cache_entry(call: Call, entry: CacheEntry) -> dict[str, object]:
    document: dict[str, object] = {
        "ID": entry.id,
        "Type": entry.kind,
        "Description": entry.description,
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.size,
        "CreatedAt": rfc3339_nano(entry.created),
        "LastUsedAt": rfc3339_nano(entry.used) if entry.used else None,
        "UsageCount": entry.uses,
    }
    if call.version < _PARENTS_SINCE:
        document["Parent"] = entry.parents[0] if entry.parents else ""
    elif entry.parents:
        document["Parents"] = list(entry.parents)
    return document


_SWARM = [
    *(("GET", f"/{noun}") for noun in ("swarm", "nodes", "services", "tasks", "secrets", "configs", "swarm/unlockkey")),
    *(("GET", f"/{noun}/{{id}}") for noun in ("nodes", "services", "tasks", "secrets", "configs")),
    *(("DELETE", f"/{noun}/{{id}}") for noun in ("nodes", "services", "secrets", "configs")),
    *(("POST", f"/{noun}/create") for noun in ("services", "secrets", "configs")),
    *(("POST", f"/{noun}/{{id}}/update") for noun in ("nodes", "services", "secrets", "configs")),
    *(("POST", f"/swarm/{verb}") for verb in ("init", "join", "leave", "update", "unlock")),
]


async def _not_a_manager(call: Call) -> web.Response:
    if call.request.rel_url.raw_path.rsplit("/", 1)[-1] in ("init", "join"):
        raise UnsupportedError("swarm mode is not supported")
    if call.request.rel_url.raw_path.endswith("/swarm/leave"):
        raise UnavailableError("This node is not part of a swarm")
    raise UnavailableError(NOT_A_MANAGER)


_CHECKPOINTS = [
    ("GET", "/containers/{name}/checkpoints"),
    ("POST", "/containers/{name}/checkpoints"),
    ("DELETE", "/containers/{name}/checkpoints/{checkpoint}"),
]
_OF_A_PLUGIN = [
    ("GET", "/plugins/{name:.*}/json"),
    ("DELETE", "/plugins/{name:.*}"),
    *(("POST", f"/plugins/{{name:.*}}/{verb}") for verb in ("enable", "disable", "upgrade", "push", "set")),
]


async def _no_such_plugin(call: Call) -> web.Response:
    raise NotFoundError(f'plugin "{call.variables["name"]}" not found')


async def _no_plugins(_call: Call) -> web.Response:
    return json_response([])


def _refuse(message: str) -> Handler:
    async def handler(_call: Call) -> web.Response:
        raise UnsupportedError(message)

    return handler


async def _next_or_gone(stream: AsyncIterator[Event], gone: asyncio.Future[None]) -> Event | None:
    task = asyncio.ensure_future(_next(stream))
    waiting: set[asyncio.Future[None] | asyncio.Future[Event | None]] = {task, gone}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    return None


async def _next(stream: AsyncIterator[Event]) -> Event | None:
    return await anext(stream, None)
