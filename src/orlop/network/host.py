"""``--network host``: the container stays in the host's namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.network.sandbox import Endpoint, Sandbox
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from orlop.network.networks import Network
    from orlop.network.records import Records


class HostDriver:
    """Makes sandboxes on the host network; published ports are meaningless there and ignored, as Docker does."""

    def __init__(self, network: Network, records: Records) -> None:
        self._network = network
        self._records = records

    async def attach(self, container_id: str) -> Sandbox:
        """Return a sandbox without a namespace of its own."""
        endpoint = Endpoint(
            id=generate_id(), network_id=self._network.id, network_name=self._network.name, driver="host"
        )
        self._records.put_endpoint(container_id, endpoint)
        return Sandbox(id=generate_id(), mode="host", netns=None, endpoints=(endpoint,))

    async def adopt(self, endpoint: Endpoint, pidfd: int) -> Sandbox:  # noqa: ARG002 - as NoneDriver's
        """Nothing was lost."""
        return Sandbox(id=generate_id(), mode="host", netns=None, endpoints=(endpoint,))

    async def leave(self, endpoint: Endpoint) -> None:
        """Forget it."""
        self._records.delete_endpoint(endpoint.id)
