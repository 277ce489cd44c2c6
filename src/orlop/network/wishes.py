"""What a container wants of its networks, and whether it can have that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnavailableError
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
        if network.id not in available:
            raise UnavailableError(f"network {network.name} could not be set up when the engine started")
        check_wish(network, wish)
        found[network.id] = network, wish
    return list(found.values())


def check_wish(network: Network, wish: EndpointWish) -> None:
    """Raise InvalidParameterError in Docker's words for what a network cannot give."""
    if not wish.address and not wish.address6:
        return
    if not network.user_defined:
        raise InvalidParameterError("user specified IP address is supported on user defined networks only")
    if not network.chosen:
        raise InvalidParameterError(
            "user specified IP address is supported only when connecting to networks with user configured subnets"
        )
