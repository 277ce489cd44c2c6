"""Networks as records: the three that are always there, and those that users define."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from orlop.errors import ForbiddenError, InvalidParameterError, UnsupportedError
from orlop.spec.ports import check_host_ip

BUILTIN = {"bridge": "bridge", "host": "host", "none": "null"}
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
OPTION_BRIDGE_NAME = "com.docker.network.bridge.name"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
OPTION_DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
OPTION_MTU = "com.docker.network.driver.mtu"
_OPTIONS = (OPTION_BRIDGE_NAME, OPTION_ICC, OPTION_MASQUERADE, OPTION_HOST_BINDING, OPTION_MTU)


@dataclass(frozen=True, slots=True)
class Network:
    """A network.

    Attributes:
        id: 64 hexadecimal digits.
        driver: "bridge", "host" or "null".
        created_at: nanoseconds since the epoch.
        subnet: "172.17.0.0/16", or "".
        gateway: the bridge's own address, or "".
        ip_range: part of the subnet that addresses are given out from, or "" for all of it.
        internal: without a way out.
        options: the driver's, under Docker's names.
    """

    id: str
    name: str
    driver: str
    created_at: int
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def bridge_name(self) -> str:
        """The bridge's interface name; Docker's for user-defined ones: br- and 12 digits of the id."""
        return self.options.get(OPTION_BRIDGE_NAME) or f"br-{self.id[:12]}"

    @property
    def default_bridge(self) -> bool:
        """Whether this is the network that containers are on unless they ask for another."""
        return self.name == "bridge"

    def flag(self, option: str) -> bool:
        """Return a boolean driver option, true unless it was set to false."""
        return self.options.get(option, "true").lower() in ("true", "1", "t")


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A network that a user wants."""

    name: str
    driver: str = "bridge"
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def check_request(request: NetworkRequest) -> None:
    """Raise an error in Docker's words for a request that cannot be."""
    if not _NAME.fullmatch(request.name):
        raise InvalidParameterError(
            f"{request.name!r} includes invalid characters for a network name, "
            "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    if request.name in BUILTIN or request.name in ("default", "container"):
        raise ForbiddenError(f"operation is not permitted on predefined {request.name} network")
    if request.driver not in ("", "bridge"):
        raise UnsupportedError(f"network driver is not supported yet: {request.driver}")
    unknown = sorted(request.options.keys() - set(_OPTIONS))
    if unknown:
        raise InvalidParameterError(f"unknown option of the bridge driver: {unknown[0]!r}")
    for option in (OPTION_ICC, OPTION_MASQUERADE):
        if request.options.get(option, "true").lower() not in ("true", "false", "1", "0", "t", "f"):
            raise InvalidParameterError(f"invalid value of {option}: {request.options[option]!r}")
    host_ip = check_host_ip(request.options.get(OPTION_HOST_BINDING, ""))
    if ":" in host_ip:
        raise InvalidParameterError(f"invalid value of {OPTION_HOST_BINDING}: {host_ip!r}")
    mtu = request.options.get(OPTION_MTU, "1500")
    if not re.fullmatch(r"[0-9]{1,5}", mtu) or not 68 <= int(mtu) <= 65535:
        raise InvalidParameterError(f"invalid value of {OPTION_MTU}: {mtu!r}")


def check_subnet(request: NetworkRequest) -> tuple[ipaddress.IPv4Network, ipaddress.IPv4Address] | None:
    """Return the chosen subnet and gateway, or None when the engine is to choose."""
    if not request.subnet:
        if request.gateway or request.ip_range:
            raise InvalidParameterError("invalid network config: a gateway or ip-range needs a subnet")
        return None
    try:
        subnet = ipaddress.ip_network(request.subnet)
    except ValueError:
        raise InvalidParameterError(f"invalid subnet {request.subnet}: invalid CIDR block notation") from None
    if not isinstance(subnet, ipaddress.IPv4Network):
        raise UnsupportedError(f"IPv6 subnets are not supported yet: {request.subnet}")
    if subnet.prefixlen > 30:
        raise InvalidParameterError(f"invalid subnet {request.subnet}: no room for containers")
    gateway = subnet[1]
    if request.gateway:
        try:
            gateway = ipaddress.IPv4Address(request.gateway)
        except ValueError:
            raise InvalidParameterError(f"invalid gateway {request.gateway}: invalid address") from None
    if gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address):
        raise InvalidParameterError(f"no matching subnet for gateway {gateway}")
    if request.ip_range:
        _check_range(request.ip_range, subnet)
    return subnet, gateway


def _check_range(text: str, subnet: ipaddress.IPv4Network) -> None:
    try:
        inside = ipaddress.IPv4Network(text).subnet_of(subnet)
    except ValueError:
        raise InvalidParameterError(f"invalid ip-range {text}: invalid CIDR block notation") from None
    if not inside:
        raise InvalidParameterError(f"no matching subnet for range {text}")
