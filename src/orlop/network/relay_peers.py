"""Who may not come in through the relay: what firewall rules keep apart, it keeps apart as well (threats.md G8)."""

from __future__ import annotations

import functools
import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.network.networks import IpNetwork, Network

_parse = functools.lru_cache(maxsize=1024)(ipaddress.ip_network)


def is_a_containers(peer: str, networks: Iterable[Network]) -> bool:
    """Tell whether an address, as accept(2) gives it, is one of a container's on a bridge, and not the host's own."""
    text, _, scope = peer.partition("%")
    address = ipaddress.ip_address(text)
    if address.is_link_local and scope:
        name = socket.if_indextoname(int(scope)) if scope.isascii() and scope.isdecimal() else scope
        return any(network.driver == "bridge" and network.bridge_name == name for network in networks)
    return any(_contains(network, address) for network in networks if network.driver == "bridge")


def _contains(network: Network, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    subnet, gateway = network.subnet, network.gateway
    if address.version == 6:
        subnet, gateway = network.subnet6, network.gateway6
    found: IpNetwork | None = _parse(subnet) if subnet else None
    return found is not None and address in found and str(address) != gateway
