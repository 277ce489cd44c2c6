"""The HTTP side of the engine: version prefix, headers, errors, and the sockets it listens on."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from typing import TYPE_CHECKING

from aiohttp import web

from orlop.api.call import Call, Route
from orlop.api.errors import error_response
from orlop.api.hijack import Server
from orlop.api.responses import json_response
from orlop.api.routing import API_VERSION, MIN_API_VERSION, SERVER, Router, split_version, version_text

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Iterable

    from orlop.api.tls import TlsListener

_HEADERS = {
    "Api-Version": version_text(API_VERSION),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": SERVER,
}
_SLASHES = re.compile("//+")

__all__ = ["API_VERSION", "MIN_API_VERSION", "SERVER", "Application", "Route"]


_BACKLOG = 1024
_SOON = 0.2  # seconds: many starts' records come to the disk at once
_log = logging.getLogger(__name__)


class Application:
    """Owns the router and the listening servers.

    Args:
        routes: what is answered.
        sync: waits until what a request changed is on the disk.
    """

    def __init__(self, routes: Iterable[Route], *, sync: Callable[[], Awaitable[None]] | None = None) -> None:
        self._router = Router(routes)
        self._sync = sync
        self._later: asyncio.TimerHandle | None = None
        self._syncing: set[asyncio.Task[None]] = set()
        self._server = _make_server(self._handle)
        self._private_server = _make_server(self._handle_private)
        self._listeners: list[asyncio.Server] = []
        self._private_listeners: list[TlsListener] = []

    async def listen(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Serve a bound, listening socket, which this object owns from now on; by TLS with a context."""
        loop = asyncio.get_running_loop()
        if context is not None:
            from orlop.api.tls import TlsListener

            listener = TlsListener(
                sock, context, lambda local: loop.connect_accepted_socket(self._private_server, sock=local)
            )
            self._private_listeners.append(listener)
            return
        # asyncio accepts ``backlog`` times at a go and, out of descriptors, reports and schedules each failure: a
        # thousandfold more with every try. One at a time there is one retry per second (faults.md R19).
        self._listeners.append(await loop.create_server(self._server, sock=sock, backlog=1))
        sock.listen(_BACKLOG)

    async def close(self, timeout: float) -> None:
        """Stop accepting, let requests finish for ``timeout`` seconds, then cut them."""
        if self._later is not None:
            self._later.cancel()
        for listener in self._listeners:
            listener.close()
        for private in self._private_listeners:
            private.stop()
        self._server.pre_shutdown()
        self._private_server.pre_shutdown()
        await asyncio.gather(self._server.shutdown(timeout), self._private_server.shutdown(timeout))
        for private in self._private_listeners:
            await private.close()

    async def _handle_private(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a client that came by TLS: it has made sure of the name, so that any is good; no browser is (H3)."""
        if "Origin" in request.headers:
            response = _refused()
            response.headers.update(_HEADERS)
            return response
        return await self._handle(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call: Call | None = None
        try:
            response: web.StreamResponse | None = _refusal(request)
            if response is None:
                path = request.rel_url.raw_path
                if "//" in path:
                    return web.Response(status=301, headers={"Location": _SLASHES.sub("/", path)})
                version, path = split_version(path)
                route, variables = self._router.find(request.method, path, version)
                call = Call(request, version, variables)
                response = await route.handler(call)
                if self._sync is not None and route.method != "GET":
                    await self._keep(self._sync, later=route.prompt)
        except ConnectionError:
            # The client is gone; aiohttp finds that out again when it writes, and says nothing.
            return call.stream if call is not None and call.stream is not None else web.Response()
        except Exception as error:  # noqa: BLE001 - the boundary: nothing but JSON leaves the engine
            response = error_response(error)
            if call is not None and call.stream is not None and call.stream.prepared:
                # The head is out: all that is left to tell the client is a stream that ends too early.
                request.protocol.force_close()
                return call.stream
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _keep(self, sync: Callable[[], Awaitable[None]], *, later: bool) -> None:
        """Have what a request changed on the disk, before it is answered or a little later."""
        if not later:
            await sync()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(_SOON, self._keep_behind, sync)

    def _keep_behind(self, sync: Callable[[], Awaitable[None]]) -> None:
        self._later = None  # what changes from now on needs another time
        task = asyncio.get_running_loop().create_task(_sync_or_warn(sync))
        self._syncing.add(task)
        task.add_done_callback(self._syncing.discard)


async def _sync_or_warn(sync: Callable[[], Awaitable[None]]) -> None:
    try:
        await sync()
    except OSError as error:
        _log.warning("records are not on the disk: %s", error)


def _refusal(request: web.BaseRequest) -> web.Response | None:
    """Refuse browsers on TCP: DNS rebinding and cross-site requests (threats.md H3)."""
    transport = request.transport
    if transport is None or not isinstance(transport.get_extra_info("sockname"), tuple):
        return None
    if "Origin" in request.headers or not _is_own_host(request.headers.get("Host", ""), transport):
        return _refused()
    return None


def _refused() -> web.Response:
    return json_response({"message": "request refused: unknown Host or Origin header"}, status=403)


def _make_server(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> Server:
    # Heads of at most 32 fields of 16 KiB; a client that says nothing for ten minutes is let go.
    return Server(
        handler,
        access_log=None,
        keepalive_timeout=600.0,
        tcp_keepalive=True,
        max_line_size=16384,
        max_field_size=16384,
        auto_decompress=False,
        lingering_time=1.0,
    )


def _is_own_host(host: str, transport: asyncio.BaseTransport) -> bool:
    name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
    if name in ("localhost", transport.get_extra_info("sockname")[0]):
        return True
    try:
        # A literal address cannot be the result of DNS rebinding.
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
