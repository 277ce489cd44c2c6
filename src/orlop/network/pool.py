"""Network namespaces kept ready, because making one costs more than all the rest of a start.

A ready namespace has its loopback up and, unless it is a plain one, a pair of virtual Ethernet links: ``eth0`` inside
and ``veth<7 digits>`` outside, both up, the outer one not yet a port of any bridge. It exists only as descriptors of
the engine: if the engine dies, the kernel removes namespace and links.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from orlop.kernel import rtnetlink
from orlop.kernel.rtnetlink import Rtnetlink
from orlop.network.uninterrupted import run_to_end

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from orlop.primitives.owned_fd import OwnedFd

INTERFACE = "eth0"
RESOLVER_SOCKETS = ("resolver-udp", "resolver-tcp", "netfilter")  # as runtime.network_namespace names them
_REFILL_DELAY = 0.02  # seconds: leaves the processors to the container that is just being started, until it runs
_PLAIN_SIZE = 1
_log = logging.getLogger(__name__)


class NamespaceFactory(Protocol):
    """Makes and finds network namespaces; the engine's spawner client."""

    async def create_network_namespace(self, *sockets: str) -> tuple[OwnedFd, list[socket.socket]]:
        """Return a fresh namespace and sockets opened inside it; the caller owns them all."""
        ...

    async def network_namespace_of(self, pidfd: int) -> tuple[OwnedFd, socket.socket]:
        """Return the same of a running process (or of a namespace); the caller owns both, and keeps the descriptor."""
        ...

    async def open_inside(
        self,
        namespace: int,
        *,
        sockets: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        wished: Mapping[str, str] | None = None,
    ) -> list[socket.socket]:
        """Write settings of a namespace (paths below /proc/sys/net), then open sockets in it, which the caller owns.

        Raises:
            SystemFailureError: a setting that is ``wished`` is not there or not taken; others may be missing.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinkPair:
    """Two virtual Ethernet links, both up.

    Attributes:
        index: of the end inside the namespace.
        host_name: of the outer end.
        host_index: of the outer end.
        ipv6_off: the inner end has IPv6 and router advertisements off (the spawner saw to it).
    """

    index: int
    host_name: str
    host_index: int
    ipv6_off: bool = True


@dataclass(slots=True)
class ReadyNamespace:
    """A namespace that waits for its container.

    Attributes:
        netns: the namespace.
        inside: rtnetlink in it.
        pair: the links, the inner one called eth0; None in a plain one.
        resolver: sockets for a name server (:data:`RESOLVER_SOCKETS`), until somebody takes them; none in a plain one.
    """

    netns: OwnedFd
    inside: Rtnetlink
    pair: LinkPair | None = None
    resolver: list[socket.socket] = field(default_factory=list)

    def take_resolver(self) -> list[socket.socket]:
        """Give the resolver's sockets away."""
        taken, self.resolver = self.resolver, []
        return taken

    def close_sockets(self) -> None:
        """Close what is open inside; the namespace goes on."""
        self.inside.close()
        for sock in self.take_resolver():
            sock.close()

    def close(self) -> None:
        """Drop it; the kernel removes the links with the namespace."""
        self.close_sockets()
        self.netns.close()


def outer_name() -> str:
    """Return a name for a link on the host's side that no other has."""
    return f"veth{os.urandom(4).hex()[:7]}"


class NamespacePool:
    """Keeps namespaces ready; takes from it never wait while one is there.

    Args:
        factory: where namespaces come from.
        size: how many with links are kept; 0 makes each when it is asked for.
        mtu: of both ends of the links.
    """

    def __init__(self, factory: NamespaceFactory, *, size: int, mtu: int) -> None:
        self._factory = factory
        self._size = size
        self._mtu = mtu
        self._ready: deque[ReadyNamespace] = deque()
        self._plain: deque[ReadyNamespace] = deque()
        self._host = Rtnetlink.open()
        self._host_turn = asyncio.Lock()  # the socket is used from worker threads, one at a time
        self._refill: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self) -> ReadyNamespace:
        """Return a namespace with links; the caller owns it."""
        if self._ready:
            ready = self._ready.popleft()
            self.refill_soon()
            return ready
        self.refill_soon()
        return await self._make()

    async def take_plain(self) -> ReadyNamespace:
        """Return a namespace with nothing but loopback; the caller owns it."""
        if self._plain:
            ready = self._plain.popleft()
            self.refill_soon()
            return ready
        self.refill_soon()
        return await self._make_plain()

    def refill_soon(self) -> None:
        """Begin to fill up in the background, unless that is under way."""
        if self._closed or self._size == 0 or (self._refill is not None and not self._refill.done()):
            return
        self._refill = asyncio.get_running_loop().create_task(self._fill(), name="network-pool")

    async def fill(self) -> None:
        """Wait until the pool is full (or could not be filled)."""
        self.refill_soon()
        if self._refill is not None:
            await self._refill

    async def close(self) -> None:
        """Drop all that is ready."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refill
        for ready in (*self._ready, *self._plain):
            ready.close()
        self._ready.clear()
        self._plain.clear()
        async with self._host_turn:
            self._host.close()

    async def _fill(self) -> None:
        await asyncio.sleep(_REFILL_DELAY)
        try:
            while True:  # what is taken meanwhile, of either kind, is made again, too
                if len(self._ready) < self._size:
                    self._ready.append(await self._make())
                elif len(self._plain) < _PLAIN_SIZE:
                    self._plain.append(await self._make_plain())
                else:
                    return
        except Exception as error:  # noqa: BLE001 - a container's start will meet the same and report it
            _log.warning("cannot keep network namespaces ready: %s", error)

    async def _make(self) -> ReadyNamespace:
        return await self._prepare(await self._make_plain(*RESOLVER_SOCKETS))

    async def _make_plain(self, *more: str) -> ReadyNamespace:
        netns, (route, *resolver) = await self._factory.create_network_namespace("route", *more)
        return ReadyNamespace(netns, Rtnetlink(route), resolver=resolver)

    async def _prepare(self, ready: ReadyNamespace) -> ReadyNamespace:
        try:
            ready.pair = await self.add_pair(ready.netns, ready.inside, INTERFACE, name=outer_name())
        except BaseException:
            ready.close()
            raise
        return ready

    async def add_pair(self, netns: OwnedFd, inside: Rtnetlink, interface: str, *, name: str) -> LinkPair:
        """Make a pair of links ``name`` and, inside, ``interface``. Raises NetlinkError; nothing is left then."""
        async with self._host_turn:
            return await run_to_end(asyncio.to_thread(self._add_links, netns, inside, interface, name))

    def _add_links(self, netns: OwnedFd, inside: Rtnetlink, interface: str, name: str) -> LinkPair:
        answers = self._host.execute(
            rtnetlink.add_veth(name, interface, peer_netns=netns.fileno(), mtu=self._mtu),
            rtnetlink.refuse_link_local(name),
            rtnetlink.set_link(0, name=name, up=True),
            rtnetlink.get_link(name=name),
        )
        outer = rtnetlink.parse_link(answers[0]).index
        answers = inside.execute(rtnetlink.set_link(0, name=interface, up=True), rtnetlink.get_link(name=interface))
        inner = rtnetlink.parse_link(answers[0])
        return LinkPair(inner.index, name, outer, ipv6_off=inner.ipv6_disabled in (True, None))
