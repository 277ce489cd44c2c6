"""Where the default bridge goes: which interface, which subnet, whose chains."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.network import ipam
from orlop.network.bridge_device import ALIAS
from orlop.network.hosts import host_nameservers
from orlop.network.options import check_bip
from orlop.network.parents import find_link

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.kernel.rtnetlink import IpNetwork, Rtnetlink
    from orlop.network.networks import Network
    from orlop.network.options import NetworkOptions

DOCKER_BRIDGE = "docker0"
OWN_BRIDGE = "orlop0"


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision.

    Attributes:
        bridge: interface name.
        gateway: its address, with the subnet's prefix length.
        prefix: of the names of firewall chains.
        warning: what the administrator should know, or "".
    """

    bridge: str
    gateway: ipaddress.IPv4Interface
    prefix: str
    warning: str = ""


def place_default_bridge(
    options: NetworkOptions, host: Rtnetlink, recorded: Network | None, *, keep: bool
) -> Placement:
    """Decide.

    Args:
        options: the administrator's.
        host: rtnetlink in the engine's namespace.
        recorded: the default network as it was, or None.
        keep: containers run on it: where it was it stays.
    """
    name, prefix, warning = options.bridge, "DOCKER", ""
    if docker_alive(host):
        prefix = "ORLOP"
        if name == DOCKER_BRIDGE:
            name = OWN_BRIDGE
            warning = f"{DOCKER_BRIDGE} belongs to a running Docker: the default bridge is {OWN_BRIDGE}"
    if keep and recorded is not None and recorded.gateway:
        length = ipaddress.IPv4Network(recorded.subnet).prefixlen
        kept = ipaddress.IPv4Interface(f"{recorded.gateway}/{length}")
        return Placement(recorded.bridge_name, kept, prefix, warning if name == recorded.bridge_name else "")
    return Placement(name, _choose_gateway(options, host, name, recorded), prefix, warning)


def _choose_gateway(
    options: NetworkOptions, host: Rtnetlink, name: str, recorded: Network | None
) -> ipaddress.IPv4Interface:
    if options.bip:
        return check_bip(options.bip)
    if options.fixed_cidr:  # as Docker: the range is the subnet, then
        fixed = ipaddress.IPv4Network(options.fixed_cidr)
        return ipaddress.IPv4Interface(f"{fixed[1]}/{fixed.prefixlen}")
    link = find_link(host, name)
    if link is not None:
        for address in host.addresses(link.index):
            interface = address.interface
            if isinstance(interface, ipaddress.IPv4Interface) and interface.network.prefixlen <= 30:
                return interface
    occupied = occupied_ranges(host, besides=link.index if link is not None else 0)
    if recorded is not None and recorded.gateway and recorded.bridge_name == name:
        subnet = ipaddress.IPv4Network(recorded.subnet)
        if not any(subnet.overlaps(other) for other in occupied if isinstance(other, ipaddress.IPv4Network)):
            return ipaddress.IPv4Interface(f"{recorded.gateway}/{subnet.prefixlen}")
    pools = [pool for pool in options.default_address_pools if ":" not in pool.base]
    chosen = ipam.choose_subnet(pools, occupied)
    return ipaddress.IPv4Interface(f"{chosen[1]}/{chosen.prefixlen}")


def occupied_ranges(
    host: Rtnetlink, *, besides: int = 0, resolv_path: str = "/etc/resolv.conf", version: int = 4
) -> list[IpNetwork]:
    """Return what no pool may overlap: routes (not default ones), addresses, name servers; but link ``besides``'s."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    found: list[IpNetwork] = [
        route.destination
        for route in host.routes(family)
        if route.destination.version == version
        and route.destination.prefixlen
        and (route.index != besides or not besides)
    ]
    found += [
        address.interface.network
        for address in host.addresses()
        if address.interface.version == version and (address.index != besides or not besides)
    ]
    try:
        with open(resolv_path, encoding="utf-8", errors="replace") as file:
            servers = host_nameservers(file.read(65536))
    except OSError:
        servers = []
    for server in servers:
        try:
            address = ipaddress.ip_network(server.partition("%")[0])
        except ValueError:
            continue
        if address.version == version:
            found.append(address)
    return found


def docker_alive(host: Rtnetlink) -> bool:
    """Whether docker0 is here, is not ours, and a dockerd lives in this network namespace."""
    link = find_link(host, DOCKER_BRIDGE)
    if link is None or link.alias == ALIAS:
        return False
    own = os.stat("/proc/thread-self/ns/net").st_ino
    return any(_netns_of(pid) == own for pid in _processes("dockerd"))


def _processes(name: str) -> Iterable[str]:
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            fd = os.open(f"/proc/{entry}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            comm = os.read(fd, 64)
        except OSError:
            comm = b""
        finally:
            os.close(fd)
        if comm.strip() == name.encode():
            yield entry


def _netns_of(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return -1
