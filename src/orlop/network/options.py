"""What the administrator chooses about networks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.charset import ALPHANUMERIC, consists_of

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class AddressPool:
    """A range that networks without a chosen subnet are cut from.

    Attributes:
        base: the range, "172.17.0.0/16".
        size: prefix length of each network cut from it.
    """

    base: str
    size: int


# The order in which Docker tries them (libnetwork/ipamutils).
DEFAULT_POOLS = (
    *(AddressPool(f"172.{second}.0.0/16", 16) for second in range(17, 32)),
    AddressPool("192.168.0.0/16", 20),
)


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The daemon's network options, under Docker's names.

    Attributes:
        bridge: name of the default network's bridge; "none" for no default network.
        bip: address and prefix length of the default bridge, "172.17.0.1/16"; "" chooses a free pool.
        fixed_cidr: part of the default bridge's subnet that addresses are given out from, or "".
        ipv6: the default bridge has IPv6 as well.
        fixed_cidr_v6: its IPv6 subnet, or part of that of bip6; "" chooses one of the pools.
        bip6: its IPv6 address and prefix length, or "".
        default_gateway: address of the default bridge's subnet to which containers send what is for elsewhere; "": the
            bridge's.
        default_gateway_v6: the same for IPv6.
        mtu: of bridges and containers' interfaces, bytes.
        iptables: whether firewall rules are kept at all; without them no port can be published.
        ip_forward: switch IPv4 forwarding on at start.
        ip_masq: containers reach the outside under the host's address.
        icc: containers of the default bridge reach each other.
        default_ip: address that ports are published on unless one is given.
        firewall_backend: "iptables", "nftables", or "" for what the machine has.
        default_address_pools: where subnets come from.
        default_network_opts: driver -> options of networks that users make without naming them.
        pool_size: network namespaces kept ready.
        allow_direct_routing: let neighbours that route to a container's own address reach its published ports.
        allow_published_between_networks: let containers reach ports that other networks publish, by an address of the
            host, as they do through Docker's proxy.
        userland_proxy: ports are published on [::1] as well, and on [::] for containers with IPv4 only: the engine
            itself carries what the kernel cannot lead there.
    """

    bridge: str = "docker0"
    bip: str = ""
    fixed_cidr: str = ""
    ipv6: bool = False
    fixed_cidr_v6: str = ""
    bip6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    mtu: int = 1500
    iptables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    icc: bool = True
    default_ip: str = "0.0.0.0"
    firewall_backend: str = ""
    default_address_pools: tuple[AddressPool, ...] = DEFAULT_POOLS
    default_network_opts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pool_size: int = 4
    allow_direct_routing: bool = False
    allow_published_between_networks: bool = False
    userland_proxy: bool = False

    def validate(self) -> None:
        """Raise InvalidParameterError or UnsupportedError for what cannot be."""
        if self.firewall_backend not in ("", "iptables", "nftables"):
            raise InvalidParameterError(f"invalid firewall-backend: {self.firewall_backend!r}")
        check_interface_name(self.bridge)
        if self.bip:
            check_bip(self.bip)
        if self.fixed_cidr:
            check_fixed(self.fixed_cidr, self.bip)
        if self.bip6:
            check_bip6(self.bip6)
        if self.fixed_cidr_v6:
            check_fixed(self.fixed_cidr_v6, self.bip6, version=6)
        for key, text, version in (
            ("default-gateway", self.default_gateway, 4),
            ("default-gateway-v6", self.default_gateway_v6, 6),
        ):
            if text:
                _check_gateway(key, text, version)
        if not 68 <= self.mtu <= 65535:
            raise InvalidParameterError(f"invalid MTU: {self.mtu}")
        try:
            ipaddress.IPv4Address(self.default_ip)
        except ValueError:
            raise InvalidParameterError(f"invalid default address of published ports: {self.default_ip}") from None
        for pool in self.default_address_pools:
            _check_pool(pool)


def check_interface_name(name: str) -> str:
    """Return the name if the kernel and our rules take it (dev_valid_name; threats.md G10)."""
    if not is_interface_name(name):
        raise InvalidParameterError(f"invalid bridge name: {name!r}")
    return name


def is_interface_name(name: str) -> bool:
    """Tell whether the kernel and our rules take it as the name of an interface."""
    return consists_of(name, ALPHANUMERIC | frozenset("._-"), 1, 15) and name[0] in ALPHANUMERIC


def check_bip(text: str) -> ipaddress.IPv4Interface:
    """Parse a bridge's address; it must be a host of its subnet, and the prefix length must be given."""
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError:
        raise InvalidParameterError(f"invalid bridge address (bip): {text}") from None
    subnet = interface.network
    if "/" not in text or subnet.prefixlen > 30 or interface.ip in (subnet.network_address, subnet.broadcast_address):
        raise InvalidParameterError(f"invalid bridge address (bip): {text}")
    return interface


def check_bip6(text: str) -> ipaddress.IPv6Interface:
    """Parse a bridge's IPv6 address; the prefix length must be given."""
    try:
        interface = ipaddress.IPv6Interface(text)
    except ValueError:
        raise InvalidParameterError(f"invalid bridge address (bip6): {text}") from None
    unfit = interface.ip.is_multicast or interface.ip.is_loopback or interface.ip == interface.network.network_address
    if "/" not in text or interface.network.prefixlen > 126 or unfit or interface.ip.scope_id:
        raise InvalidParameterError(f"invalid bridge address (bip6): {text}")
    return interface


def _check_gateway(key: str, text: str, version: int) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameterError(f"invalid {key}: {text}") from None
    if address.version != version or "%" in text:
        raise InvalidParameterError(f"invalid {key}: {text}")


def check_fixed(text: str, bip: str, *, version: int = 4) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parse the range that a default bridge's addresses come from; it must be part of the bridge's subnet."""
    key = "fixed-cidr" if version == 4 else "fixed-cidr-v6"
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise InvalidParameterError(f"invalid {key}: {text}") from None
    if found.version != version or "/" not in text or found.max_prefixlen - found.prefixlen < 2 or found.is_multicast:
        raise InvalidParameterError(f"invalid {key}: {text}")
    if bip:
        whole = check_bip(bip).network if version == 4 else check_bip6(bip).network
        if found.prefixlen < whole.prefixlen or found.network_address not in whole:
            raise InvalidParameterError(f"invalid {key}: {text}: it is no part of {whole}")
    return found


def _check_pool(pool: AddressPool) -> None:
    try:
        base = ipaddress.ip_network(pool.base)
    except ValueError:
        raise InvalidParameterError(f"invalid base pool: {pool.base}") from None
    if not base.prefixlen <= pool.size <= base.max_prefixlen - 2:
        raise InvalidParameterError(f"invalid pool size: {pool.size} in {pool.base}")
