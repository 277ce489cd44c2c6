"""The HTTP side of the engine: version prefix, headers, errors, and the sockets it listens on."""

from __future__ import annotations

import asyncio
import ipaddress
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
    from collections.abc import Iterable

_HEADERS = {
    "Api-Version": version_text(API_VERSION),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": SERVER,
}
_SLASHES = re.compile("//+")

__all__ = ["API_VERSION", "MIN_API_VERSION", "SERVER", "Application", "Route"]


_BACKLOG = 1024


class Application:
    """Owns the router and the listening servers."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._router = Router(routes)
        # Heads of at most 32 fields of 16 KiB; a client that says nothing for ten minutes is let go.
        self._server = Server(
            self._handle,
            access_log=None,
            keepalive_timeout=600.0,
            tcp_keepalive=True,
            max_line_size=16384,
            max_field_size=16384,
            auto_decompress=False,
            lingering_time=1.0,
        )
        self._listeners: list[asyncio.Server] = []

    async def listen(self, sock: socket.socket) -> None:
        """Serve a bound, listening socket, which this object owns from now on."""
        loop = asyncio.get_running_loop()
        # asyncio accepts ``backlog`` times at a go and, out of descriptors, reports and schedules each failure: a
        # thousandfold more with every try. One at a time there is one retry per second (faults.md R19).
        self._listeners.append(await loop.create_server(self._server, sock=sock, backlog=1))
        sock.listen(_BACKLOG)

    async def close(self, timeout: float) -> None:
        """Stop accepting, let requests finish for ``timeout`` seconds, then cut them."""
        for listener in self._listeners:
            listener.close()
        self._server.pre_shutdown()
        await self._server.shutdown(timeout)

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


def _refusal(request: web.BaseRequest) -> web.Response | None:
    """Refuse browsers on TCP: DNS rebinding and cross-site requests (threats.md H3)."""
    transport = request.transport
    if transport is None or not isinstance(transport.get_extra_info("sockname"), tuple):
        return None
    if "Origin" in request.headers or not _is_own_host(request.headers.get("Host", ""), transport):
        return json_response({"message": "request refused: unknown Host or Origin header"}, status=403)
    return None


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
