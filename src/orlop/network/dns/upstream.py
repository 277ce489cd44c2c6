"""Questions that are passed on to other name servers.

They leave from the container's own namespace, as Docker's do, so that the container's rules and routes apply to them;
only a server on the host's loopback is asked from the host. A container without a way out has no upstream at all
(threats.md G2). Each question has a random number and a random port of its own, and only an answer to exactly it is
taken (G11).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orlop.errors import OrlopError
from orlop.kernel.unconnect import disconnect
from orlop.network.dns import message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_IN_FLIGHT = 1024  # questions of all containers together
_MOST_OF_ONE = 256  # of one container, so that it cannot take the others' turns
SECONDS = 4.0  # for each server, as Docker's
MOST_SERVERS = 3  # as resolv.conf(5)
PORT = 53
_BATCH = 8  # sockets that one visit to the namespace opens
_MOST_IDLE = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """A name server; ``on_host`` ones are asked from the host's namespace."""

    address: str
    on_host: bool = False


class SocketSource(Protocol):
    """Opens sockets where questions leave from."""

    async def open(self, kind: str, count: int) -> Sequence[socket.socket]:
        """Return non-blocking sockets: "udp4", "udp6", "tcp4" or "tcp6". Raises OrlopError, OSError."""
        ...


class HostSockets:
    """Sockets of the engine's own namespace."""

    async def open(self, kind: str, count: int) -> Sequence[socket.socket]:
        """Return sockets."""
        family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
        type_ = socket.SOCK_DGRAM if kind.startswith("udp") else socket.SOCK_STREAM
        return [socket.socket(family, type_ | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) for _ in range(count)]


class InFlight:
    """How many questions all containers together wait for."""

    def __init__(self, most: int = MOST_IN_FLIGHT) -> None:
        self._most = most
        self._count = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """Give whether one more may be asked, for as long as the context lasts."""
        room = self._count < self._most
        self._count += room
        try:
            yield room
        finally:
            self._count -= room


class Upstream:
    """Asks other name servers for one container."""

    def __init__(self, servers: Sequence[Server], *, inside: SocketSource, in_flight: InFlight) -> None:
        self._servers = tuple(servers[:MOST_SERVERS])
        self._sources: dict[bool, SocketSource] = {False: inside, True: HostSockets()}
        self._in_flight = in_flight
        self._own = InFlight(_MOST_OF_ONE)
        self._idle: dict[tuple[bool, str], deque[socket.socket]] = {}
        self._closed = False

    async def ask(self, query: message.Query, data: bytes, *, tcp: bool) -> bytes | None:
        """Return a server's answer under the query's own number; None when no server gave one."""
        with self._in_flight.turn() as room, self._own.turn() as own_room:
            if not (room and own_room):
                return None
            best: bytes | None = None
            for server in self._servers:
                found = await self._ask_one(server, query, data, tcp=tcp)
                if found is None:
                    continue
                best = found
                if message.result_code(found) not in (message.SERVER_FAILURE, message.REFUSED):
                    break
        return None if best is None else message.with_identity(best, query.identity)

    async def _ask_one(self, server: Server, query: message.Query, data: bytes, *, tcp: bool) -> bytes | None:
        identity = int.from_bytes(os.urandom(2), "big")
        sent = message.with_identity(data, identity)
        try:
            async with asyncio.timeout(SECONDS):
                if tcp:
                    return await self._by_tcp(server, sent, identity=identity, question=query.question)
                return await self._by_udp(server, sent, identity=identity, question=query.question)
        except (OSError, OrlopError, TimeoutError, asyncio.IncompleteReadError) as error:
            _log.debug("name server %s: %s", server.address, error)
            return None

    async def _by_udp(self, server: Server, data: bytes, *, identity: int, question: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        kind = f"udp{ipaddress.ip_address(server.address.partition('%')[0]).version}"
        sock = await self._take(kind, on_host=server.on_host)
        clean = False
        try:
            await loop.sock_connect(sock, (server.address, PORT))
            await loop.sock_sendall(sock, data)
            while True:
                answer = await loop.sock_recv(sock, message.LONGEST)
                if message.answers(answer, identity, question):
                    clean = True
                    return answer
        finally:
            self._give_back(sock, kind, on_host=server.on_host, clean=clean)

    async def _by_tcp(self, server: Server, data: bytes, *, identity: int, question: bytes) -> bytes | None:
        kind = f"tcp{ipaddress.ip_address(server.address.partition('%')[0]).version}"
        (sock,) = await self._sources[server.on_host].open(kind, 1)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (server.address, PORT))
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(len(data).to_bytes(2, "big") + data)
            length = int.from_bytes(await reader.readexactly(2), "big")
            answer = await reader.readexactly(length)
            return answer if message.answers(answer, identity, question) else None
        finally:
            writer.close()

    async def _take(self, kind: str, *, on_host: bool) -> socket.socket:
        idle = self._idle.setdefault((on_host, kind), deque())
        while not idle:
            idle.extend(await self._sources[on_host].open(kind, _BATCH))
        return idle.popleft()

    def _give_back(self, sock: socket.socket, kind: str, *, on_host: bool, clean: bool) -> None:
        """Keep a socket for another question, which gets another port; one that may still be answered is closed."""
        idle = self._idle.setdefault((on_host, kind), deque())
        if clean and not self._closed and len(idle) < _MOST_IDLE:
            with contextlib.suppress(OSError):
                disconnect(sock.fileno())
                idle.append(sock)
                return
        sock.close()

    def close(self) -> None:
        """Close all idle sockets; questions under way close theirs."""
        self._closed = True
        for idle in self._idle.values():
            for sock in idle:
                sock.close()
        self._idle.clear()
