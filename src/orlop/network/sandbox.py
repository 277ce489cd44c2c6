"""What a container asks of the network and what it gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.ports import PortBinding, PortRequest

Mode = Literal["bridge", "host", "none", "container"]


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """One container's wish at its start.

    Attributes:
        network: Docker's NetworkMode: "default", "bridge", "host", "none", "container:<full id>", or the name or id of
            a user-defined network.
        container_name: without the slash; for messages.
        ports: what to publish.
        address: a chosen address (user-defined networks only), or "".
        mac: a chosen hardware address, or "".
    """

    network: str = "bridge"
    container_name: str = ""
    ports: tuple[PortRequest, ...] = ()
    address: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on one network; on "host" and "none" it has an id only.

    Attributes:
        id: 64 hexadecimal digits.
        address: without prefix length.
        interface: name inside the container.
        host_interface: name of the bridge port.
    """

    id: str
    network_id: str
    network_name: str
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    mac: str = ""
    interface: str = ""
    host_interface: str = ""
    ports: tuple[PortBinding, ...] = ()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A container's network namespace and what is in it.

    Attributes:
        id: 64 hexadecimal digits.
        netns: the namespace, owned by the network service; None: the host's.
        endpoints: one for each network.
        sysctls: what the runtime has to set inside before the program runs (rarely anything).
    """

    id: str
    mode: Mode
    netns: OwnedFd | None
    endpoints: tuple[Endpoint, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> Endpoint | None:
        """The first endpoint."""
        return self.endpoints[0] if self.endpoints else None
