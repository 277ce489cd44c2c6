"""How a bridge network and what is elsewhere reach each other, for each IP version, as Docker 27 and 28 have it.

nat              published ports by the host's addresses; containers reach the outside under the host's address
nat-unprotected  likewise, and whoever has a route to a container reaches all of its ports
routed           nothing is translated: published ports are reached at the container's own address, also from other
                 networks; there are no ports of the host
isolated         of an internal network: the bridge has no address, so that not even the host is reached

With ``nat``, who comes in by an interface of the host that the network trusts reaches published ports at the
container's own address as well (Docker 28).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.network.networks import OPTION_TRUSTED_INTERFACES
from orlop.network.options import is_interface_name
from orlop.spec.ports import PortBinding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from orlop.network.sandbox import Endpoint
    from orlop.spec.ports import PortRequest

OPTIONS = {
    4: "com.docker.network.bridge.gateway_mode_ipv4",
    6: "com.docker.network.bridge.gateway_mode_ipv6",
}
NAT, UNPROTECTED, ROUTED, ISOLATED = "nat", "nat-unprotected", "routed", "isolated"
_EVERY = {4: "0.0.0.0", 6: "::"}


def mode_of(options: Mapping[str, str], version: int) -> str:
    """Return the mode of a network with these options, for an IP version."""
    return options.get(OPTIONS[version], NAT)


def check_modes(options: Mapping[str, str], *, internal: bool) -> None:
    """Raise InvalidParameterError in Docker's words for modes that are none, or not of such a network."""
    for version, option in OPTIONS.items():
        mode = mode_of(options, version)
        if mode not in (NAT, UNPROTECTED, ROUTED, ISOLATED):
            shown = _shown(mode)
            raise InvalidParameterError(f"failed to parse {option} value: {shown} (unknown gateway mode {shown})")
        if mode == ISOLATED and not internal:
            raise InvalidParameterError("gateway mode 'isolated' can only be used for an internal network")


def trusted_interfaces(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the host's interfaces that a network trusts; empty parts of the list mean nothing (Docker)."""
    return tuple(dict.fromkeys(filter(None, options.get(OPTION_TRUSTED_INTERFACES, "").split(":"))))


def check_trusted(options: Mapping[str, str]) -> None:
    """Raise InvalidParameterError for what is no interface's name, patterns of several among it (threats.md G10)."""
    for name in trusted_interfaces(options):
        if not is_interface_name(name):
            shown = _shown(options[OPTION_TRUSTED_INTERFACES])
            raise InvalidParameterError(
                f"failed to parse {OPTION_TRUSTED_INTERFACES} value: {shown} (invalid interface name {name[:100]!r})"
            )


def _shown(value: str) -> str:
    return value if value.isprintable() and len(value) < 100 else repr(value[:100])


def split_ports(
    requests: Iterable[PortRequest], endpoint: Endpoint, *, routed: Collection[int], default_ip: str
) -> tuple[list[PortRequest], list[PortBinding]]:
    """Return what is to be published by ports of the host, and what is reached at the container's own address.

    Of an IP version that is routed a request's host address only says that it is meant, and its host port nothing
    (Docker); the binding's host port is 0.

    Args:
        requests: all of the container's.
        endpoint: that they are published by.
        routed: the IP versions that are; not empty.
        default_ip: where ports are published that name no address.
    """
    mapped: list[PortRequest] = []
    direct: set[PortBinding] = set()
    own = {4: endpoint.address, 6: endpoint.address6}
    for request in requests:
        asked = (6 if ":" in request.host_ip else 4,) if request.host_ip else (4, 6)
        for version in asked:
            if version in routed:
                if own[version]:
                    direct.add(PortBinding(request.container_port, request.protocol, _EVERY[version], 0))
            elif request.host_ip:
                mapped.append(request)
            elif own[version]:
                host_ip = default_ip if version == 4 else _EVERY[6]
                mapped.append(replace(request, host_ip=host_ip))
    return mapped, sorted(direct)
