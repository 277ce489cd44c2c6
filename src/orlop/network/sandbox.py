"""What a container asks of the network and what it gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.ports import PortBinding, PortRequest

Mode = Literal["bridge", "host", "none", "container"]


@dataclass(frozen=True, slots=True)
class EndpointWish:
    """What a container wants of one network.

    Attributes:
        network: its name or id.
        address: a chosen IPv4 address (user-defined networks only), or "".
        address6: a chosen IPv6 address, or "".
        mac: a chosen hardware address, or "".
        names: what the others call the container, its own name first (user-defined networks only).
        links: (alias, name): what the container calls others.
        priority: the network with the highest gives the default route.
        options: of the driver for this endpoint.
        link_local: link-local addresses beside the network's own, IPv4 or IPv6.
    """

    network: str
    address: str = ""
    address6: str = ""
    mac: str = ""
    names: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    options: dict[str, str] = field(default_factory=dict)
    link_local: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NameServerWish:
    """Which name servers a container's own questions go to.

    Attributes:
        servers: addresses, the first one first.
        on_host: those of them that are asked from the host's namespace, because they are on its loopback.
    """

    servers: tuple[str, ...] = ()
    on_host: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """One container's wish at its start.

    Attributes:
        network: Docker's NetworkMode: "default", "bridge", "host", "none", "container:<full id>", or the name or id of
            a user-defined network.
        container_name: without the slash; for messages.
        ports: what to publish.
        endpoints: the networks to join, the first one first; None: ``network`` only, without wishes.
        name_servers: where questions go that the container's networks can't answer.
    """

    network: str = "bridge"
    container_name: str = ""
    ports: tuple[PortRequest, ...] = ()
    endpoints: tuple[EndpointWish, ...] | None = None
    name_servers: NameServerWish = field(default_factory=NameServerWish)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on one network; on "host" and "none" it has an id only.

    Attributes:
        id: 64 hexadecimal digits.
        address: IPv4, without prefix length; "" for none.
        gateway: where IPv4 packets to elsewhere may go; "" when there is no way out.
        interface: name inside the container.
        host_interface: name of the bridge port.
        ports: what is published by way of this network.
        address6: IPv6, without prefix length; "" for none.
        gateway6: as gateway.
        names: what the others on the network call the container.
        links: (alias, name): what the container calls others.
        priority: the network with the highest gives the default route.
        options: of the driver for this endpoint.
        on_link: packets to elsewhere leave straight by the interface, without a gateway (ipvlan in layer 3).
        link_local: link-local addresses that were wished for.
        router: the gateway is somebody else than this host.
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
    address6: str = ""
    prefix_length6: int = 0
    gateway6: str = ""
    names: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    options: dict[str, str] = field(default_factory=dict)
    driver: str = "bridge"
    on_link: bool = False
    link_local: tuple[str, ...] = ()
    router: bool = False

    def leads_out(self, version: int = 0) -> bool:
        """Whether packets to elsewhere may leave by this network, of one IP version or (0) of any."""
        six = bool(self.gateway6 or (self.on_link and self.address6))
        four = bool(self.gateway or (self.on_link and self.address))
        return six if version == 6 else four if version == 4 else four or six


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A container's network namespace and what is in it.

    Attributes:
        id: 64 hexadecimal digits.
        netns: the namespace, owned by the network service; None: the host's.
        endpoints: one for each network.
        sysctls: what the runtime has to set inside before the program runs (rarely anything).
        name_server: questions are answered inside, at 127.0.0.11.
    """

    id: str
    mode: Mode
    netns: OwnedFd | None
    endpoints: tuple[Endpoint, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    name_server: bool = False

    @property
    def endpoint(self) -> Endpoint | None:
        """The first endpoint."""
        return self.endpoints[0] if self.endpoints else None

    def on(self, network_id: str) -> Endpoint | None:
        """Return the endpoint on a network."""
        return next((endpoint for endpoint in self.endpoints if endpoint.network_id == network_id), None)
