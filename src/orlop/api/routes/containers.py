"""Routes of containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.moments import parse_moment
from orlop.api.responses import ByteStream, JsonStream, empty, json_response
from orlop.api.routes.attaching import content_type, encode
from orlop.engine.containers.attaching import parse_detach_keys
from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.logs.reader import LogQuery
from orlop.spec.docker.containers import ContainerUpdate, decode, decode_create
from orlop.spec.docker.times import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import web

    from orlop.engine.containers import ContainerService
    from orlop.logs.entry import LogEntry

_PLACE = "/containers/{name}"
_LASTING = {"stop", "rename", "update"}  # the others are about what runs
_MAC_OF_ENDPOINT_SINCE = (1, 44)
_MAC_DEPRECATED = (
    "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
)


def routes(containers: ContainerService) -> list[Route]:
    """Return the routes."""
    handlers = _Handlers(containers)
    streams = _Streams(containers)
    named: dict[str, list[tuple[str, Callable[[Call], Awaitable[web.StreamResponse]]]]] = {
        "GET": [
            ("json", handlers.inspect),
            ("top", handlers.top),
            ("changes", handlers.changes),
            ("logs", streams.logs),
            ("stats", streams.stats),
            ("export", streams.export),
        ],
        "POST": [
            ("start", handlers.start),
            ("stop", handlers.stop),
            ("restart", handlers.restart),
            ("kill", handlers.kill),
            ("pause", handlers.pause),
            ("unpause", handlers.unpause),
            ("rename", handlers.rename),
            ("update", handlers.update),
            ("resize", handlers.resize),
            ("wait", streams.wait),
        ],
    }
    return [
        Route("GET", "/containers/json", handlers.listing),
        Route("POST", "/containers/create", handlers.create, prompt=True),
        Route("POST", "/containers/prune", handlers.prune),
        Route("DELETE", _PLACE, handlers.remove, prompt=True),
        *(
            Route(method, f"{_PLACE}/{verb}", handler, prompt=verb not in _LASTING)
            for method, verbs in named.items()
            for verb, handler in verbs
        ),
    ]


class _Handlers:
    """Requests with one answer."""

    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    async def listing(self, call: Call) -> web.Response:
        documents = await self._containers.reports.summaries(
            call.filters(),
            every=call.boolean("all"),
            limit=call.integer("limit", 0) or 0,
            size=call.boolean("size"),
        )
        return json_response(documents)

    async def create(self, call: Call) -> web.Response:
        body = await call.body_object()
        wanted = decode_create(body)
        container_id, warnings = await self._containers.create(
            wanted, call.text("name"), platform=call.text("platform")
        )
        if wanted.config.mac_address and call.version >= _MAC_OF_ENDPOINT_SINCE:
            warnings = [*warnings, _MAC_DEPRECATED]
        return json_response({"Id": container_id, "Warnings": warnings}, status=201)

    async def inspect(self, call: Call) -> web.Response:
        return json_response(await self._containers.reports.inspect(call.variables["name"], size=call.boolean("size")))

    async def start(self, call: Call) -> web.Response:
        if call.text("checkpoint"):
            raise UnsupportedError("checkpoints are not supported")
        parse_detach_keys(call.text("detachKeys"))
        await self._containers.start(call.variables["name"])
        return empty()

    async def stop(self, call: Call) -> web.Response:
        await self._containers.stop(call.variables["name"], signal_name=call.text("signal"), timeout=call.integer("t"))
        return empty()

    async def restart(self, call: Call) -> web.Response:
        await self._containers.restart(
            call.variables["name"], signal_name=call.text("signal"), timeout=call.integer("t")
        )
        return empty()

    async def kill(self, call: Call) -> web.Response:
        await self._containers.kill(call.variables["name"], call.text("signal"))
        return empty()

    async def pause(self, call: Call) -> web.Response:
        await self._containers.pause(call.variables["name"])
        return empty()

    async def unpause(self, call: Call) -> web.Response:
        await self._containers.unpause(call.variables["name"])
        return empty()

    async def rename(self, call: Call) -> web.Response:
        self._containers.rename(call.variables["name"], call.text("name"))
        return empty()

    async def update(self, call: Call) -> web.Response:
        changes = decode(await call.body_object(), ContainerUpdate)
        return json_response({"Warnings": self._containers.update(call.variables["name"], changes)})

    async def resize(self, call: Call) -> web.Response:
        await self._containers.resize(
            call.variables["name"], height=call.integer("h", 0) or 0, width=call.integer("w", 0) or 0
        )
        return empty(200)

    async def top(self, call: Call) -> web.Response:
        return json_response(await self._containers.reports.top(call.variables["name"], call.text("ps_args", "-ef")))

    async def changes(self, call: Call) -> web.Response:
        return json_response(await self._containers.changes(call.variables["name"]) or None)

    async def remove(self, call: Call) -> web.Response:
        if call.boolean("link"):
            raise UnsupportedError("links are not supported")
        await self._containers.remove(
            call.variables["name"], force=call.boolean("force"), with_volumes=call.boolean("v")
        )
        return empty()

    async def prune(self, call: Call) -> web.Response:
        filters = call.filters()
        moments = filters.get("until", [])
        if len(moments) > 1:
            raise InvalidParameterError("more than one until filter specified")
        until = parse_moment(moments[0]) if moments else None
        removed, space = await self._containers.prune(filters, until=until)
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": space})


class _Streams:
    """Requests whose answer takes as long as the container."""

    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    async def wait(self, call: Call) -> web.StreamResponse:
        outcome = self._containers.wait(call.variables["name"], call.text("condition"))
        async with JsonStream(call) as stream:
            # The client goes on to start the container only when it has seen our head.
            await stream.flush()
            gone = asyncio.ensure_future(call.wait_gone())
            try:
                await asyncio.wait((outcome, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
            if not outcome.done():  # a container can outlive its clients by years
                outcome.cancel()
                return stream.response
            code, error = outcome.result()
            document: dict[str, object] = {"StatusCode": code}
            if error:
                document["Error"] = {"Message": error}
            await stream.send(document)
        return stream.response

    async def logs(self, call: Call) -> web.StreamResponse:
        container = self._containers.get(call.variables["name"])
        stdout, stderr = call.boolean("stdout"), call.boolean("stderr")
        if not stdout and not stderr:
            raise InvalidParameterError("Bad parameters: you must choose at least one stream")
        query = LogQuery(
            tail=_tail(call.text("tail", "all")),
            since=_moment(call.text("since")),
            until=_moment(call.text("until")),
            stdout=stdout,
            stderr=stderr,
        )
        entries = self._containers.logs(container, query, follow=call.boolean("follow"))
        tty = container.definition.config.tty
        return await _write_logs(
            call, entries, tty=tty, timestamps=call.boolean("timestamps"), details=call.boolean("details")
        )

    async def stats(self, call: Call) -> web.StreamResponse:
        name = call.variables["name"]
        once = not call.boolean("stream", default=True)
        sample = self._containers.reports.stats(name, None)
        if once:
            if not call.boolean("one-shot") and self._containers.get(name).alive:
                await asyncio.sleep(1)
                sample = self._containers.reports.stats(name, sample)
            return json_response(sample)
        async with JsonStream(call) as stream:
            with contextlib.suppress(ConnectionError):
                while True:
                    await stream.send(sample)
                    await asyncio.sleep(1)
                    sample = self._containers.reports.stats(name, sample)
        return stream.response

    async def export(self, call: Call) -> web.StreamResponse:
        name = call.variables["name"]
        self._containers.get(name)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        work = asyncio.ensure_future(self._containers.export(name, write_end))
        try:
            return await _copy_pipe(call, read_end, write_end, work)
        finally:
            work.cancel()


async def _copy_pipe(call: Call, read_end: int, write_end: int, work: asyncio.Future[None]) -> web.StreamResponse:
    """Stream a pipe until the work that fills it is done, then what is left in it."""
    loop = asyncio.get_running_loop()
    work.add_done_callback(lambda _: os.close(write_end))
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )
    try:
        async with ByteStream(call, content_type="application/octet-stream") as stream:
            # The pipe ends when the work is done; an error before its first byte is still an ordinary answer.
            while data := await reader.read(1 << 18):
                await stream.write(data)
            await work
        return stream.response
    finally:
        transport.close()


def _tail(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _moment(text: str) -> int:
    return parse_timestamp(text) if text else 0


async def _write_logs(
    call: Call,
    entries: AsyncIterator[LogEntry],
    *,
    tty: bool,
    timestamps: bool,
    details: bool,
) -> web.StreamResponse:
    async with ByteStream(call, content_type=content_type(call, tty=tty)) as stream:
        await stream.flush()
        with contextlib.suppress(ConnectionError):
            async for entry in entries:
                await stream.write(encode(entry, tty=tty, timestamps=timestamps, details=details))
    return stream.response
