"""What a network driver does for each container on its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.kernel.rtnetlink import Rtnetlink
    from orlop.network.pool import LinkPair
    from orlop.network.sandbox import Endpoint, EndpointWish
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.ports import PortRequest


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an endpoint goes; nothing of it is the driver's to close.

    Attributes:
        namespace: the container's.
        inside: rtnetlink in it.
        interface: the name of the new link in it.
        container_name: for messages.
        pair: a pair of links that is ready and may be used, or None.
    """

    namespace: OwnedFd
    inside: Rtnetlink
    interface: str
    container_name: str
    pair: LinkPair | None = None


class Driver(Protocol):
    """Connects containers to one network.

    The driver writes the endpoint's row before it makes anything and removes it after all of it is gone. ``join`` and
    ``publish`` do all or nothing. ``leave`` never raises for what is already gone.
    """

    async def join(self, container_id: str, wish: EndpointWish, spot: Spot) -> Endpoint:
        """Put a link with an address into a namespace. Raises OrlopError, OSError, having undone everything."""
        ...

    async def publish(self, endpoint: Endpoint, ports: Sequence[PortRequest], container_name: str) -> Endpoint:
        """Make ports reachable from elsewhere; returns the endpoint with them. Raises OrlopError."""
        ...

    async def withdraw(self, endpoint: Endpoint) -> Endpoint:
        """Undo publish; returns the endpoint without ports."""
        ...

    async def leave(self, endpoint: Endpoint) -> None:
        """Undo join and publish: rules, ports, link, address, row. The link itself may go a little later."""
        ...

    def adopt(self, endpoint: Endpoint) -> None:
        """Take up an endpoint of a container that kept running while the engine was away."""
        ...

    def delete_link(self, endpoint: Endpoint) -> None:
        """Remove the link itself, in a worker thread: it takes long. One that is gone is no error."""
        ...
