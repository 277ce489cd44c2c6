"""Routes of attaching to a container: the connection itself is given away, or frames of a WebSocket are."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.hijack import MULTIPLEXED_STREAM, RAW_STREAM, hijack, wait_head_read
from orlop.api.websocket import WebSocket
from orlop.engine.containers.attaching import parse_detach_keys
from orlop.logs.entry import frame, render
from orlop.logs.reader import LogQuery
from orlop.spec.launch import AttachTarget
from orlop.spec.record import replace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from orlop.engine.containers import ContainerService
    from orlop.engine.containers.container import Container
    from orlop.logs.entry import LogEntry

_MULTIPLEXED_SINCE = (1, 42)


def routes(containers: ContainerService) -> list[Route]:
    """Return the routes."""
    handlers = _Handlers(containers)
    return [
        Route("POST", "/containers/{name}/attach", handlers.attach, prompt=True),
        Route("GET", "/containers/{name}/attach/ws", handlers.attach_websocket),
    ]


class _Handlers:
    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers

    async def attach(self, call: Call) -> web.StreamResponse:
        container = self._containers.require_attachable(call.variables["name"])
        tty = container.definition.config.tty
        target = _target(call, container, multiplexed=not tty)  # what is wrong with it is told as JSON
        hijacked = await hijack(call, content_type=content_type(call, tty=tty))
        client = hijacked.fd
        try:
            if call.boolean("logs"):
                await wait_head_read(client.fileno())
                async for entry in self._log(call, container):
                    await _send_all(client.fileno(), encode(entry, tty=tty, timestamps=False, details=False))
            if call.boolean("stream"):
                await self._containers.attach(container, replace(target, preface=hijacked.preface.hex()), client)
            else:
                client.close()
        except Exception:
            client.close()
            raise
        return hijacked.response

    async def attach_websocket(self, call: Call) -> web.StreamResponse:
        """Output in binary frames, as it comes, without the headers of multiplexed streams (so does Docker)."""
        container = self._containers.require_attachable(call.variables["name"])
        target = _target(call, container, multiplexed=False)
        async with WebSocket(call) as client:
            if call.boolean("logs"):
                async for entry in self._log(call, container):
                    await client.send(encode(entry, tty=True, timestamps=False, details=False))
            if call.boolean("stream"):
                await client.join(lambda ours: self._containers.attach(container, target, ours))
        return client.response

    def _log(self, call: Call, container: Container) -> AsyncIterator[LogEntry]:
        query = LogQuery(stdout=call.boolean("stdout"), stderr=call.boolean("stderr"))
        return self._containers.logs(container, query, follow=False)


def _target(call: Call, container: Container, *, multiplexed: bool) -> AttachTarget:
    config = container.definition.config
    detach_keys = parse_detach_keys(call.text("detachKeys"))
    return AttachTarget(
        stdin=call.boolean("stdin") and config.open_stdin,
        stdout=call.boolean("stdout"),
        stderr=call.boolean("stderr"),
        multiplexed=multiplexed,
        detach_keys=detach_keys if config.tty else "",
    )


def content_type(call: Call, *, tty: bool) -> str:
    """Return the type of a stream of a container's output."""
    return RAW_STREAM if tty or call.version < _MULTIPLEXED_SINCE else MULTIPLEXED_STREAM


def encode(entry: LogEntry, *, tty: bool, timestamps: bool, details: bool) -> bytes:
    """Return an entry of a log as it is sent in such a stream."""
    data = render(entry, timestamps=timestamps, details=details)
    return data if tty else frame(entry.stream, data)


async def _send_all(client: int, data: bytes) -> None:
    """Send to a non-blocking stream socket that no transport owns."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(client, view) :]
        except BlockingIOError:
            await asyncio.sleep(0.01)
