"""What the network service asks of a firewall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class BridgeRules:
    """A bridge as the firewall sees it.

    Attributes:
        name: interface name.
        subnet: "172.17.0.0/16", or "" for a network without IPv4.
        masquerade: containers reach the outside under the host's address.
        icc: containers of this bridge reach each other.
        internal: nothing goes in or out.
        direct_routing: packets from other interfaces may be addressed to containers themselves.
        subnet6: "fd00:1::/64", or "" for a network without IPv6.
        crossing: containers of other bridges reach published ports, by an address of the host.
        mode: "nat", "nat-unprotected", "routed" or "isolated", for IPv4 (``network.gateway_modes``).
        mode6: the same for IPv6.
        trusted: interfaces of the host; what comes in by them may be addressed to containers themselves, and reaches
            published ports so. An internal bridge trusts none.
    """

    name: str
    subnet: str
    masquerade: bool = True
    icc: bool = True
    internal: bool = False
    direct_routing: bool = False
    subnet6: str = ""
    crossing: bool = False
    mode: str = "nat"
    mode6: str = "nat"
    trusted: tuple[str, ...] = ()

    @property
    def entrances(self) -> tuple[str, ...]:
        """The interfaces by which one may send to the containers of a hidden bridge, its own before all."""
        return (self.name, *(() if self.internal else self.trusted))


@dataclass(frozen=True, slots=True)
class PortRule:
    """A published port as the firewall sees it; ``host_ip`` and ``address`` are of the same IP version.

    With ``host_port`` 0 it is published at the container's own address only.
    """

    bridge: str
    protocol: str
    host_ip: str
    host_port: int
    address: str
    container_port: int


class Firewall(Protocol):
    """Keeps the host's tables in step with bridges and published ports.

    Every method returns when its rules are in force (or gone), or raises an OrlopError and has changed nothing of what
    was asked. What is in ``bridges`` and published holds until it is taken back, over restarts of the engine: a new
    instance is told everything by :meth:`start` and leaves in the tables exactly that. Rules that somebody else made,
    and everything in DOCKER-USER, are left alone. Calls may come at the same time; each change is atomic per table.

    Guarantees while the rules are in force (threats.md G3, G4, G8):

    - a published port of address 127.0.0.1 can't be reached from another machine, nor from a container;
    - packets from outside reach a container on its published ports only, unless its bridge is "nat-unprotected",
      and on the host's addresses only, unless they come in by an interface that its bridge trusts;
    - containers of different bridges don't reach each other, unless it is a published port of a ``crossing`` bridge, or
      of one that is "routed".
    """

    @property
    def name(self) -> str:
        """What ``docker info`` shows: the backend's name."""

    async def start(self, bridges: Sequence[BridgeRules], ports: dict[str, tuple[PortRule, ...]]) -> None:
        """Make the tables hold exactly these; ``ports`` by owner."""

    async def add_bridge(self, bridge: BridgeRules) -> None:
        """Add the rules of a bridge."""

    async def remove_bridge(self, name: str) -> None:
        """Remove them; a bridge that is not known is no error."""

    async def publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        """Add the rules of published ports."""

    async def withdraw(self, owner: str) -> None:
        """Remove the owner's; none is no error."""

    async def restore(self, links: Collection[str] | None = None) -> bool:
        """Put back what somebody else removed; returns whether anything was missing.

        With the names of all links, also remove rules of ours for bridges that are not among them.
        """

    async def differences(self, links: Collection[str]) -> list[str]:
        """Return, for people, what :meth:`restore` with these links would change."""
