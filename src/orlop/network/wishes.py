"""What a container wants of its networks, and whether it can have that."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, InvalidParameterError, UnavailableError
from orlop.network.interface_sysctls import OPTION_SYSCTLS
from orlop.network.interfaces import OPTION_NAME
from orlop.network.sandbox import EndpointWish

if TYPE_CHECKING:
    from collections.abc import Container

    from orlop.network.catalogue import Catalogue
    from orlop.network.networks import Network
    from orlop.network.sandbox import AttachRequest


def find_wishes(
    catalogue: Catalogue, available: Container[str], request: AttachRequest
) -> list[tuple[Network, EndpointWish]]:
    """Return the networks that a container wants, each with what it wants of it.

    Args:
        catalogue: all networks.
        available: ids of those that could be set up.
        request: the container's.

    Raises:
        OrlopError: in Docker's words.
    """
    default = "bridge" if catalogue.default is not None else "none"
    found: dict[str, tuple[Network, EndpointWish]] = {}
    wanted = (EndpointWish(request.network),) if request.endpoints is None else request.endpoints
    for wish in wanted:
        network = catalogue.find(default if wish.network in ("", "default") else wish.network)
        check_joinable(network)
        if network.id not in available:
            raise UnavailableError(f"network {network.name} could not be set up when the engine started")
        check_wish(network, wish)
        found[network.id] = network, wish
    return list(found.values())


def check_joinable(network: Network) -> None:
    """Raise ForbiddenError in Docker's words for a network of which nothing exists."""
    if network.config_only:
        raise ForbiddenError("cannot create endpoint on configuration-only network")


def check_wish(network: Network, wish: EndpointWish) -> None:
    """Raise InvalidParameterError in Docker's words for what a network cannot give."""
    check_addresses(network, wish.address, wish.address6)
    for text in wish.link_local:
        address = ipaddress.ip_address(text)
        if not address.is_link_local:
            raise InvalidParameterError(f"invalid link local IP address: {text}")
        if address.version == 6 and not network.subnet6:
            raise _wrong(f"network {network.name} has no IPv6 for link-local IP address {text}")
        if network.driver in ("host", "null", "cni"):
            raise _wrong(f"link-local IP addresses are not supported on a network of driver {network.driver}")
    for option in (OPTION_NAME, OPTION_SYSCTLS):
        if option in wish.options and network.driver in ("host", "null", "cni"):
            raise _wrong(f"{option} is not supported on a network of driver {network.driver}")


def check_addresses(network: Network, *chosen: str) -> None:
    """Raise InvalidParameterError in Docker's words for addresses that a network cannot give, whoever has them."""
    for text in filter(None, chosen):
        if not network.user_defined:
            raise _wrong("user specified IP address is supported on user defined networks only")
        address = ipaddress.ip_address(text)
        every = [ipaddress.ip_network(pool.subnet) for pool in network.pools]
        subnets = [subnet for subnet in every if subnet.version == address.version]
        if not network.chosen or not subnets:
            raise _wrong(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
            )
        if not any(address in subnet for subnet in subnets):
            raise _wrong(f"no configured subnet or ip-range contain the IP address {text}")


def _wrong(text: str) -> InvalidParameterError:
    return InvalidParameterError(f"invalid endpoint settings:\n{text}")
