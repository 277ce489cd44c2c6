"""Networks as records: the three that are always there, and those that users define."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from orlop.spec.truth import find_bool

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

BUILTIN = {"bridge": "bridge", "host": "host", "none": "null"}
OPTION_BRIDGE_NAME = "com.docker.network.bridge.name"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
OPTION_DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
OPTION_CONF = "conf"
OPTION_PARENT = "parent"
OPTION_MACVLAN_MODE = "macvlan_mode"
OPTION_IPVLAN_MODE, OPTION_IPVLAN_FLAG = "ipvlan_mode", "ipvlan_flag"
OPTION_ANTISPOOF = "orlop.antispoof"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
OPTION_TRUSTED_INTERFACES = "com.docker.network.bridge.trusted_host_interfaces"
OPTION_INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
# auxiliary addresses, as Docker calls them, that take the bridge's place as gateway
AUX_GATEWAY, AUX_GATEWAY6 = "DefaultGatewayIPv4", "DefaultGatewayIPv6"


def reserved_ends(subnet: IpNetwork) -> tuple[IpAddress, ...]:
    """Return the addresses of a subnet that nobody can have, as Docker 23 and later has it.

    IPv4: the network's own and the broadcast address, which a /31 and a /32 do not have (RFC 3021). IPv6: the first,
    which means any of its routers (RFC 4291, 2.6.1), whatever the length.
    """
    if subnet.version == 6:
        return (subnet.network_address,)
    return () if subnet.prefixlen > 30 else (subnet.network_address, subnet.broadcast_address)


@dataclass(frozen=True, slots=True)
class Pool:
    """A subnet of a network.

    Attributes:
        subnet: "172.17.0.0/16".
        gateway: the address of what leads out, or "".
        ip_range: part of the subnet that addresses are given out from, or "" for all of it.
        auxiliary: name -> address that is never given out.
    """

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = field(default_factory=dict)


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
        subnet6: "fd00:1::/64", or "".
        gateway6: the bridge's own IPv6 address, or "".
        ip_range6: part of the IPv6 subnet that addresses are given out from, or "".
        auxiliary: name -> address of either subnet that is never given out.
        document: what the cni driver's plugins are told, as JSON.
        chosen: the user chose the subnets, so that containers may choose their addresses.
        more_pools: further subnets (macvlan and ipvlan), as (subnet, gateway, ip_range, auxiliary).
        made_parent: the parent interface was made for this network and goes with it.
        config_only: nothing of it exists: other networks are made from it (``network.configurations``).
        config_from: name of the network that it was made from, or "".
        versions: of a ``config_only`` one: the IP versions that networks made from it have.
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
    subnet6: str = ""
    gateway6: str = ""
    ip_range6: str = ""
    auxiliary: dict[str, str] = field(default_factory=dict)
    chosen: bool = False
    document: str = ""
    more_pools: tuple[tuple[str, str, str, dict[str, str]], ...] = ()
    made_parent: bool = False
    config_only: bool = False
    config_from: str = ""
    versions: tuple[int, ...] = ()

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All subnets in the order in which addresses are taken from them, those of IPv4 first."""
        own = [
            Pool(subnet, gateway, ip_range, {n: text for n, text in self.auxiliary.items() if (":" in text) == six})
            for six, subnet, gateway, ip_range in (
                (False, self.subnet, self.gateway, self.ip_range),
                (True, self.subnet6, self.gateway6, self.ip_range6),
            )
            if subnet
        ]
        found = [*own, *(Pool(*more) for more in self.more_pools if len(more) == 4)]
        return tuple(sorted(found, key=lambda pool: ":" in pool.subnet))

    @property
    def parent(self) -> str:
        """The parent interface of a macvlan or ipvlan network; Docker's name for one that leads nowhere."""
        if self.driver not in ("macvlan", "ipvlan"):
            return ""
        return self.options.get(OPTION_PARENT) or f"{'dm' if self.driver == 'macvlan' else 'di'}-{self.id[:12]}"

    @property
    def closed(self) -> bool:
        """Whether nothing leads out of it: it is internal, or its parent interface leads nowhere."""
        return self.internal or (bool(self.parent) and OPTION_PARENT not in self.options)

    @property
    def guarded(self) -> bool:
        """Whether its containers are kept from passing for others."""
        return self.driver == "bridge" and self.flag(OPTION_ANTISPOOF, default="false")

    @property
    def user_defined(self) -> bool:
        """Whether containers on it find each other by name."""
        return self.name not in BUILTIN

    @property
    def bridge_name(self) -> str:
        """The bridge's interface name; Docker's for user-defined ones: br- and 12 digits of the id."""
        return self.options.get(OPTION_BRIDGE_NAME) or f"br-{self.id[:12]}"

    @property
    def interface_prefix(self) -> str:
        """What containers' interfaces on it are called, before a number."""
        return self.options.get(OPTION_INTERFACE_PREFIX) or "eth"

    @property
    def default_bridge(self) -> bool:
        """Whether this is the network that containers are on unless they ask for another."""
        return self.name == "bridge"

    def flag(self, option: str, *, default: str = "true") -> bool:
        """Return a boolean driver option; most are true unless they were set to false."""
        return find_bool(self.options.get(option, default)) is True
