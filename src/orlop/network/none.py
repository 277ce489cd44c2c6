"""``--network none``: a namespace with nothing but loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.network.sandbox import Endpoint, Sandbox
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from orlop.network.networks import Network
    from orlop.network.pool import NamespaceFactory, NamespacePool
    from orlop.network.records import Records


class NoneDriver:
    """Makes sandboxes of containers without a network."""

    def __init__(
        self, network: Network, *, records: Records, pool: NamespacePool, namespaces: NamespaceFactory
    ) -> None:
        self._network = network
        self._records = records
        self._pool = pool
        self._namespaces = namespaces

    async def attach(self, container_id: str) -> Sandbox:
        """Return a sandbox with loopback up."""
        ready = await self._pool.take_plain()
        ready.close_sockets()
        endpoint = Endpoint(
            id=generate_id(), network_id=self._network.id, network_name=self._network.name, driver="null"
        )
        try:
            self._records.put_endpoint(container_id, endpoint)
        except BaseException:
            ready.netns.close()
            raise
        return Sandbox(id=generate_id(), mode="none", netns=ready.netns, endpoints=(endpoint,))

    async def adopt(self, endpoint: Endpoint, pidfd: int) -> Sandbox:
        """Find the namespace again."""
        netns, sock = await self._namespaces.network_namespace_of(pidfd)
        sock.close()
        return Sandbox(id=generate_id(), mode="none", netns=netns, endpoints=(endpoint,))

    async def leave(self, endpoint: Endpoint) -> None:
        """Forget it."""
        self._records.delete_endpoint(endpoint.id)
