"""Links, addresses, routes and neighbours (rtnetlink(7); include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h).

The functions make requests and touch nothing; :class:`Rtnetlink` sends them, several at a time where the caller wants.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    Request,
    attribute,
    attribute_text,
    attribute_u32,
    nested,
    parse_attributes,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_IFALIAS, IFLA_STATS64, IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 23, 26, 28, 29
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BR_STP_STATE = 5
IFLA_PROTINFO, IFLA_BRPORT_MODE = 12, 4
IFLA_INET6_CONF, IFLA_INET6_ADDR_GEN_MODE = 2, 8
IN6_ADDR_GEN_MODE_NONE = 1
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
DEVCONF_ACCEPT_RA, DEVCONF_DISABLE_IPV6 = 3, 26

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_PERMANENT = 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 7, 15
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
NDA_DST, NDA_LLADDR = 1, 2
NTF_MASTER = 0x4
NUD_REACHABLE = 0x2

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_STATS = struct.Struct("=8Q")


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Counters of a link since it was made (struct rtnl_link_stats64)."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel describes it.

    Attributes:
        index: its number in its namespace.
        master: index of the bridge that it is a port of, or 0.
        kind: "bridge", "veth", ... or "" for hardware and loopback.
        alias: free text set by whoever made it.
        stp: whether a bridge runs the spanning tree protocol; None for other kinds.
        ipv6_disabled: the interface's ``disable_ipv6``; None where the kernel does not say.
        accept_ra: the interface's ``accept_ra``; None where the kernel does not say.
    """

    index: int
    name: str
    flags: int
    mtu: int
    address: bytes
    master: int
    kind: str
    alias: str
    stp: bool | None
    ipv6_disabled: bool | None
    accept_ra: int | None
    statistics: LinkStatistics

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)


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


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the neighbour table, or (family AF_BRIDGE) of a bridge's forwarding table."""

    index: int
    state: int
    destination: IpAddress | None
    address: bytes


def add_bridge(name: str, *, address: bytes = b"", mtu: int = 0, stp: bool = False) -> Request:
    """Ask for a bridge, down, with the spanning tree protocol off unless wanted."""
    data = nested(IFLA_INFO_DATA, attribute_u32(IFLA_BR_STP_STATE, int(stp)))
    body = _link_body(0, name=name, address=address, mtu=mtu)
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "bridge"), data)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + info, f"add bridge {name}")


def set_bridge_stp(index: int, *, enabled: bool) -> Request:
    """Ask a bridge to run the spanning tree protocol or not."""
    data = nested(IFLA_INFO_DATA, attribute_u32(IFLA_BR_STP_STATE, int(enabled)))
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "bridge"), data)
    return Request(RTM_NEWLINK, 0, _link_body(index) + info, f"set spanning tree of link {index}")


def add_veth(name: str, peer: str, *, peer_netns: int = -1, mtu: int = 0) -> Request:
    """Ask for a pair of virtual Ethernet links, both down.

    Args:
        name: of the end in the socket's namespace.
        peer: name of the other end.
        peer_netns: descriptor of the namespace in which the other end is made; -1: the same.
        mtu: of both ends; 0 keeps the kernel's default.
    """
    other = _link_body(0, name=peer, mtu=mtu)
    if peer_netns >= 0:
        other += attribute_u32(IFLA_NET_NS_FD, peer_netns)
    info = nested(
        IFLA_LINKINFO,
        attribute_text(IFLA_INFO_KIND, "veth"),
        nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, other)),
    )
    body = _link_body(0, name=name, mtu=mtu) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add veth {name}")


def refuse_link_local(name: str) -> Request:
    """Ask a link not to give itself an IPv6 link-local address; to be asked while it is down."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    body = _link_body(0, name=name) + nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    return Request(RTM_NEWLINK, 0, body, f"set address generation of link {name}")


def delete_link(index: int = 0, *, name: str = "") -> Request:
    """Ask for a link's removal, by index or by name."""
    return Request(RTM_DELLINK, 0, _link_body(index, name=name), f"delete link {name or index}")


def set_link(
    index: int,
    *,
    up: bool | None = None,
    master: int | None = None,
    address: bytes = b"",
    mtu: int = 0,
    name: str = "",
    alias: str = "",
    netns: int = -1,
) -> Request:
    """Ask for changes of a link; what is not given stays. ``master=0`` takes a port off its bridge.

    An index of 0 means the link called ``name``; otherwise ``name`` is a new name.
    """
    body = _link_body(index, up=up, name=name, address=address, mtu=mtu, alias=alias)
    if master is not None:
        body += attribute_u32(IFLA_MASTER, master)
    if netns >= 0:
        body += attribute_u32(IFLA_NET_NS_FD, netns)
    return Request(RTM_NEWLINK, 0, body, f"set link {index or name}")


def set_port_hairpin(index: int, *, enabled: bool) -> Request:
    """Ask a bridge to send frames back out of the port that they came in by, or not."""
    mode = attribute(IFLA_BRPORT_MODE, bytes([enabled]))
    body = _IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + nested(IFLA_PROTINFO, mode)
    return Request(RTM_SETLINK, 0, body, f"set hairpin mode of link {index}")


def get_link(index: int = 0, *, name: str = "") -> Request:
    """Ask for one link's description, by index or by name."""
    return Request(RTM_GETLINK, 0, _link_body(index, name=name), f"get link {name or index}")


def add_address(index: int, interface: IpInterface, *, replace: bool = False) -> Request:
    """Ask for an address on a link; IPv4 gets the subnet's broadcast address, as Docker's has."""
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
    body = _NDMSG.pack(socket.AF_BRIDGE, index, NUD_REACHABLE, NTF_MASTER, 0) + attribute(NDA_LLADDR, address)
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"add forwarding entry to link {index}")


class Rtnetlink:
    """rtnetlink over one socket, which it owns; acts in the namespace in which the socket was opened."""

    def __init__(self, sock: socket.socket) -> None:
        self._netlink = NetlinkSocket(sock)

    @classmethod
    def open(cls) -> Rtnetlink:
        """Open a socket in the caller's network namespace."""
        return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE))

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._netlink.fileno()

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._netlink.close()

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, *requests: Request) -> list[Message]:
        """Send a batch in one system call; raises the first failure (NetlinkError) after all were tried."""
        return self._netlink.execute(*requests)

    def link(self, name: str) -> Link:
        """Return the link of that name. Raises NetlinkError ENODEV."""
        return parse_link(self.execute(get_link(name=name))[0])

    def link_at(self, index: int) -> Link:
        """Return the link of that index. Raises NetlinkError ENODEV."""
        return parse_link(self.execute(get_link(index))[0])

    def links(self, *, master: int = 0) -> list[Link]:
        """Return all links, or the ports of one bridge; without statistics."""
        body = _link_body(0) + attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        if master:
            body += attribute_u32(IFLA_MASTER, master)
        return [parse_link(m) for m in self._netlink.dump(Request(RTM_GETLINK, NLM_F_DUMP, body, "list links"))]

    def addresses(self, index: int = 0) -> list[Address]:
        """Return the addresses of one link, or of all."""
        request = Request(RTM_GETADDR, NLM_F_DUMP, _IFADDR.pack(0, 0, 0, 0, index), "list addresses")
        return [parse_address(message) for message in self._netlink.dump(request)]

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """Return the unicast routes of the main table."""
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        messages = self._netlink.dump(Request(RTM_GETROUTE, NLM_F_DUMP, body, "list routes"))
        return [route for route in map(parse_route, messages) if route is not None]

    def neighbours(self, index: int = 0, *, family: int = 0) -> list[Neighbour]:
        """Return the neighbour table, or with AF_BRIDGE the forwarding tables, of one link or of all."""
        request = Request(RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(family, 0, 0, 0, 0), "list neighbours")
        found = map(parse_neighbour, self._netlink.dump(request))
        return [neighbour for neighbour in found if index in (0, neighbour.index)]


def parse_link(message: Message) -> Link:
    """Return the link that a RTM_NEWLINK message describes."""
    _, _, index, flags, _ = _IFINFO.unpack_from(message.body)
    found = parse_attributes(message.body[_IFINFO.size :])
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    kind = text(info.get(IFLA_INFO_KIND, b""))
    stp = None
    if kind == "bridge":
        stp = _number(parse_attributes(info.get(IFLA_INFO_DATA, b"")).get(IFLA_BR_STP_STATE)) != 0
    inet6 = parse_attributes(parse_attributes(found.get(IFLA_AF_SPEC, b"")).get(socket.AF_INET6, b""))
    conf = inet6.get(IFLA_INET6_CONF, b"")
    known = len(conf) >= 4 * (DEVCONF_DISABLE_IPV6 + 1)
    stats = found.get(IFLA_STATS64, b"")
    return Link(
        index=index,
        name=text(found.get(IFLA_IFNAME, b"")),
        flags=flags,
        mtu=_number(found.get(IFLA_MTU)),
        address=found.get(IFLA_ADDRESS, b""),
        master=_number(found.get(IFLA_MASTER)),
        kind=kind,
        alias=text(found.get(IFLA_IFALIAS, b"")),
        stp=stp,
        ipv6_disabled=_number(conf[4 * DEVCONF_DISABLE_IPV6 :][:4]) != 0 if known else None,
        accept_ra=_number(conf[4 * DEVCONF_ACCEPT_RA :][:4]) if known else None,
        statistics=LinkStatistics(*_STATS.unpack_from(stats)) if len(stats) >= _STATS.size else LinkStatistics(),
    )


def parse_address(message: Message) -> Address:
    """Return the address that a RTM_NEWADDR message describes."""
    _, prefix, flags, scope, index = _IFADDR.unpack_from(message.body)
    found = parse_attributes(message.body[_IFADDR.size :])
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Address(index, ipaddress.ip_interface((packed, prefix)), scope, bool(flags & IFA_F_PERMANENT))


def parse_route(message: Message) -> Route | None:
    """Return the route that a RTM_NEWROUTE message describes; None unless it is a unicast one of the main table."""
    family, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(message.body)
    found = parse_attributes(message.body[_RTMSG.size :])
    if _number(found.get(RTA_TABLE)) not in (0, RT_TABLE_MAIN) or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
        return None
    packed = found.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    return Route(
        destination=ipaddress.ip_network((packed, length)),
        index=_number(found.get(RTA_OIF)),
        gateway=_ip(found.get(RTA_GATEWAY)),
        source=_ip(found.get(RTA_PREFSRC)),
    )


def parse_neighbour(message: Message) -> Neighbour:
    """Return the entry that a RTM_NEWNEIGH message describes."""
    _, index, state, _, _ = _NDMSG.unpack_from(message.body)
    found = parse_attributes(message.body[_NDMSG.size :])
    return Neighbour(index, state, _ip(found.get(NDA_DST)), found.get(NDA_LLADDR, b""))


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload, sys.byteorder) if payload else 0


def _ip(packed: bytes | None) -> IpAddress | None:
    return ipaddress.ip_address(packed) if packed else None


def _link_body(
    index: int, *, up: bool | None = None, name: str = "", address: bytes = b"", mtu: int = 0, alias: str = ""
) -> bytes:
    change = IFF_UP if up is not None else 0
    parts = [_IFINFO.pack(0, 0, index, IFF_UP if up else 0, change)]
    if name:
        parts.append(attribute_text(IFLA_IFNAME, name))
    if address:
        parts.append(attribute(IFLA_ADDRESS, address))
    if mtu:
        parts.append(attribute_u32(IFLA_MTU, mtu))
    if alias:
        parts.append(attribute_text(IFLA_IFALIAS, alias))
    return b"".join(parts)


def _ifaddr(index: int, interface: IpInterface) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    return _IFADDR.pack(family, interface.network.prefixlen, 0, RT_SCOPE_UNIVERSE, index)


def _route(
    kind: int, flags: int, destination: IpNetwork | None, hop: tuple[int, IpAddress | None, IpAddress | None]
) -> Request:
    index, gateway, source = hop
    version = destination.version if destination is not None else gateway.version if gateway is not None else 4
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    length = destination.prefixlen if destination is not None else 0
    scope = RT_SCOPE_UNIVERSE if gateway is not None or version == 6 else RT_SCOPE_LINK
    parts: Sequence[bytes] = (
        _RTMSG.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0),
        attribute(RTA_DST, destination.network_address.packed) if destination is not None and length else b"",
        attribute(RTA_GATEWAY, gateway.packed) if gateway is not None else b"",
        attribute(RTA_PREFSRC, source.packed) if source is not None else b"",
        attribute_u32(RTA_OIF, index) if index else b"",
    )
    verb = "add" if kind == RTM_NEWROUTE else "delete"
    shown = f"{destination or 'default'}{f' via {gateway}' if gateway else ''}"
    return Request(kind, flags, b"".join(parts), f"{verb} route {shown}")
