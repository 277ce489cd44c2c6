"""The name servers of all containers on user-defined networks: begun, kept in step with their networks, ended."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.kernel.netlink import NetlinkError, NetlinkSocket
from orlop.kernel.nftables import lead_ports
from orlop.network.dns.names import Names, View
from orlop.network.dns.server import NameServer
from orlop.network.dns.upstream import InFlight, Server, Upstream
from orlop.network.pool import RESOLVER_SOCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.network.pool import NamespaceFactory
    from orlop.network.sandbox import NameServerWish, Sandbox
    from orlop.primitives.owned_fd import OwnedFd

ADDRESS = "127.0.0.11"
_TABLE = "orlop-resolver"
_PORT = 53


class _Inside:
    """Opens sockets inside a container's namespace; implements SocketSource."""

    def __init__(self, namespaces: NamespaceFactory, netns: OwnedFd) -> None:
        self._namespaces = namespaces
        self._netns = netns

    async def open(self, kind: str, count: int) -> Sequence[socket.socket]:
        """Return non-blocking sockets."""
        made = await self._namespaces.open_inside(self._netns.fileno(), sockets=[kind] * count)
        for sock in made:
            sock.setblocking(False)
        return made


class Resolvers:
    """Owns the name servers; call everything from the event loop."""

    def __init__(self, namespaces: NamespaceFactory) -> None:
        self._namespaces = namespaces
        self._in_flight = InFlight()
        self._servers: dict[str, NameServer] = {}  # by container id
        self.names = Names()

    async def serve(
        self, container_id: str, sandbox: Sandbox, wish: NameServerWish, *, sockets: Sequence[socket.socket] = ()
    ) -> None:
        """Begin to answer a container's questions, or take account of what changed in its networks.

        Args:
            container_id: whose.
            sandbox: its networks.
            wish: where other questions go.
            sockets: made when the namespace was (:data:`RESOLVER_SOCKETS`), owned from now on; none: they are made now.

        Raises:
            OrlopError, OSError: the sockets can't be made.
        """
        netns = sandbox.netns
        if netns is None:
            return
        view = self._view(sandbox)
        server = self._servers.get(container_id)
        if server is None:
            udp, tcp = await self._open(netns, sockets)
            self._servers[container_id] = NameServer(udp, tcp, view=view, upstream=self._upstream(sandbox, wish))
        else:
            server.view = view
            server.replace_upstream(self._upstream(sandbox, wish))

    def stop(self, container_id: str) -> None:
        """End a container's name server; one that has none is no error."""
        server = self._servers.pop(container_id, None)
        if server is not None:
            server.close()

    def close(self) -> None:
        """End them all."""
        for container_id in list(self._servers):
            self.stop(container_id)

    def _view(self, sandbox: Sandbox) -> View:
        ordered = sorted(sandbox.endpoints, key=lambda endpoint: (-endpoint.priority, endpoint.interface))
        named = [endpoint for endpoint in ordered if endpoint.names]
        links = {endpoint.network_id: {alias.lower(): name for alias, name in endpoint.links} for endpoint in named}
        return View(self.names, [endpoint.network_id for endpoint in named], links)

    def _upstream(self, sandbox: Sandbox, wish: NameServerWish) -> Upstream | None:
        """Return where other questions go; nowhere without a way out (CVE-2024-29018)."""
        outward = any(endpoint.leads_out() for endpoint in sandbox.endpoints)
        servers = [Server(address, on_host=address in wish.on_host) for address in wish.servers]
        if not outward or not servers or sandbox.netns is None:
            return None
        inside = _Inside(self._namespaces, sandbox.netns)
        return Upstream(servers, inside=inside, in_flight=self._in_flight)

    async def _open(self, netns: OwnedFd, sockets: Sequence[socket.socket]) -> tuple[socket.socket, socket.socket]:
        """Open the sockets and lead port 53 of the resolver's address to them.

        The sockets have ports of their own, so that a name server in the container can have port 53 of all addresses.
        Without nf_tables they take port 53 themselves.
        """
        fresh = bool(sockets)
        if not fresh:
            sockets = await self._namespaces.open_inside(netns.fileno(), sockets=RESOLVER_SOCKETS)
        udp, tcp, netfilter = sockets
        try:
            _lead(NetlinkSocket(netfilter), udp, tcp, fresh=fresh)
            return udp, tcp
        except NetlinkError:
            udp.close()
            tcp.close()
        except BaseException:
            udp.close()
            tcp.close()
            raise
        made = await self._namespaces.open_inside(netns.fileno(), sockets=("resolver-udp-53", "resolver-tcp-53"))
        if len(made) != 2:
            raise SystemFailureError("failed to set up the container's name server")
        return made[0], made[1]


def _lead(rules: NetlinkSocket, udp: socket.socket, tcp: socket.socket, *, fresh: bool) -> None:
    """Set the rules and close their socket. Raises NetlinkError: the kernel has no nf_tables."""
    ports = [
        (socket.IPPROTO_UDP, _PORT, int(udp.getsockname()[1])),
        (socket.IPPROTO_TCP, _PORT, int(tcp.getsockname()[1])),
    ]
    try:
        rules.execute_batch(*lead_ports(_TABLE, ipaddress.IPv4Address(ADDRESS).packed, ports, fresh=fresh))
    finally:
        if fresh:
            rules.close()
        else:
            # waits until the kernel has taken the old table apart, for which nobody else has to
            asyncio.get_running_loop().run_in_executor(None, rules.close)
