"""Addresses, routes and entries of forwarding tables (include/uapi/linux/{rtnetlink,if_addr,neighbour}.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Request,
    attribute,
    attribute_u32,
    parse_attributes,
)
from orlop.kernel.rtnetlink.links import number

if TYPE_CHECKING:
    from collections.abc import Sequence

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH = 28

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
NDA_LLADDR = 2
NTF_MASTER = 0x4
NUD_REACHABLE = 0x2

IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link; ``permanent`` unless it is to expire, as one from a router does."""

    index: int
    interface: IpInterface
    scope: int = RT_SCOPE_UNIVERSE
    permanent: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; no gateway means directly reachable."""

    destination: IpNetwork
    index: int
    gateway: IpAddress | None
    source: IpAddress | None


def add_address(index: int, interface: IpInterface, *, replace: bool = False) -> Request:
    """Ask for an address on a link, at once and for good.

    IPv4 gets the subnet's broadcast address, as Docker's has; IPv6 is not looked for on the link first (no DAD).
    """
    packed = interface.ip.packed
    body = _ifaddr(index, interface) + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if isinstance(interface, ipaddress.IPv4Interface) and interface.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(RTM_NEWADDR, flags, body, f"add address {interface} to link {index}")


def delete_address(index: int, interface: IpInterface) -> Request:
    """Ask for an address's removal."""
    body = _ifaddr(index, interface) + attribute(IFA_LOCAL, interface.ip.packed)
    return Request(RTM_DELADDR, 0, body, f"delete address {interface} of link {index}")


def add_route(
    destination: IpNetwork | None, *, index: int = 0, gateway: IpAddress | None = None, source: IpAddress | None = None
) -> Request:
    """Ask for a route of the main table; None as destination is IPv4's default route (or the gateway's family's)."""
    return _route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, destination, (index, gateway, source))


def delete_route(destination: IpNetwork | None, *, index: int = 0, gateway: IpAddress | None = None) -> Request:
    """Ask for a route's removal."""
    return _route(RTM_DELROUTE, 0, destination, (index, gateway, None))


def add_forwarding(index: int, address: bytes) -> Request:
    """Ask the bridge that link ``index`` is a port of to send frames for ``address`` there, until it ages."""
    body = NDMSG.pack(socket.AF_BRIDGE, index, NUD_REACHABLE, NTF_MASTER, 0) + attribute(NDA_LLADDR, address)
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"add forwarding entry to link {index}")


def parse_address(message: Message) -> Address:
    """Return the address that a RTM_NEWADDR message describes."""
    _, prefix, flags, scope, index = IFADDR.unpack_from(message.body)
    found = parse_attributes(message.body[IFADDR.size :])
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Address(index, ipaddress.ip_interface((packed, prefix)), scope, bool(flags & IFA_F_PERMANENT))


def parse_route(message: Message) -> Route | None:
    """Return the route that a RTM_NEWROUTE message describes; None unless it is a unicast one of the main table."""
    family, length, _, _, table, _, _, kind, _ = RTMSG.unpack_from(message.body)
    found = parse_attributes(message.body[RTMSG.size :])
    if number(found.get(RTA_TABLE)) not in (0, RT_TABLE_MAIN) or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
        return None
    packed = found.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    return Route(
        destination=ipaddress.ip_network((packed, length)),
        index=number(found.get(RTA_OIF)),
        gateway=_ip(found.get(RTA_GATEWAY)),
        source=_ip(found.get(RTA_PREFSRC)),
    )


def _ip(packed: bytes | None) -> IpAddress | None:
    return ipaddress.ip_address(packed) if packed else None


def _ifaddr(index: int, interface: IpInterface) -> bytes:
    family, flags = (socket.AF_INET, 0) if interface.version == 4 else (socket.AF_INET6, IFA_F_NODAD)
    return IFADDR.pack(family, interface.network.prefixlen, flags, RT_SCOPE_UNIVERSE, index)


def _route(
    kind: int, flags: int, destination: IpNetwork | None, hop: tuple[int, IpAddress | None, IpAddress | None]
) -> Request:
    index, gateway, source = hop
    version = destination.version if destination is not None else gateway.version if gateway is not None else 4
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    length = destination.prefixlen if destination is not None else 0
    if kind == RTM_DELROUTE:
        scope = RT_SCOPE_NOWHERE  # whatever it is
    else:
        scope = RT_SCOPE_UNIVERSE if gateway is not None or version == 6 else RT_SCOPE_LINK
    parts: Sequence[bytes] = (
        RTMSG.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0),
        attribute(RTA_DST, destination.network_address.packed) if destination is not None and length else b"",
        attribute(RTA_GATEWAY, gateway.packed) if gateway is not None else b"",
        attribute(RTA_PREFSRC, source.packed) if source is not None else b"",
        attribute_u32(RTA_OIF, index) if index else b"",
    )
    verb = "add" if kind == RTM_NEWROUTE else "delete"
    shown = f"{destination or 'default'}{f' via {gateway}' if gateway else ''}"
    return Request(kind, flags, b"".join(parts), f"{verb} route {shown}")
