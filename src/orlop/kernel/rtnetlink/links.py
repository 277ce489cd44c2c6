"""Links: bridges, virtual Ethernet pairs and others (include/uapi/linux/if_link.h)."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

from orlop.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Request,
    attribute,
    attribute_text,
    attribute_u32,
    nested,
    parse_attributes,
    text,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_IFALIAS, IFLA_STATS64, IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 23, 26, 28, 29
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BR_STP_STATE = 5
IFLA_PROTINFO, IFLA_BRPORT_MODE = 12, 4
IFLA_INET6_CONF, IFLA_INET6_ADDR_GEN_MODE = 2, 8
IN6_ADDR_GEN_MODE_NONE = 1
VETH_INFO_PEER = 1
IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 1, 2
IFLA_VLAN_ID = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
DEVCONF_ACCEPT_RA, DEVCONF_DISABLE_IPV6 = 3, 26

IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
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


def add_bridge(name: str, *, address: bytes = b"", mtu: int = 0, stp: bool = False) -> Request:
    """Ask for a bridge, down, with the spanning tree protocol off unless wanted."""
    data = nested(IFLA_INFO_DATA, attribute_u32(IFLA_BR_STP_STATE, int(stp)))
    body = link_body(0, name=name, address=address, mtu=mtu)
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "bridge"), data)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + info, f"add bridge {name}")


def set_bridge_stp(index: int, *, enabled: bool) -> Request:
    """Ask a bridge to run the spanning tree protocol or not."""
    data = nested(IFLA_INFO_DATA, attribute_u32(IFLA_BR_STP_STATE, int(enabled)))
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "bridge"), data)
    return Request(RTM_NEWLINK, 0, link_body(index) + info, f"set spanning tree of link {index}")


def add_veth(name: str, peer: str, *, peer_netns: int = -1, mtu: int = 0) -> Request:
    """Ask for a pair of virtual Ethernet links, both down.

    Args:
        name: of the end in the socket's namespace.
        peer: name of the other end.
        peer_netns: descriptor of the namespace in which the other end is made; -1: the same.
        mtu: of both ends; 0 keeps the kernel's default.
    """
    other = link_body(0, name=peer, mtu=mtu)
    if peer_netns >= 0:
        other += attribute_u32(IFLA_NET_NS_FD, peer_netns)
    info = nested(
        IFLA_LINKINFO,
        attribute_text(IFLA_INFO_KIND, "veth"),
        nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, other)),
    )
    body = link_body(0, name=name, mtu=mtu) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add veth {name}")


def add_macvlan(name: str, parent: int, *, netns: int, mode: int) -> Request:
    """Ask for a macvlan link of ``parent`` (an index) in another namespace, down; ``mode`` is of enum macvlan_mode."""
    return _add_sublink("macvlan", name, (parent, netns), attribute_u32(IFLA_MACVLAN_MODE, mode))


def add_ipvlan(name: str, parent: int, *, netns: int, mode: int, flags: int) -> Request:
    """Ask for an ipvlan link of ``parent`` (an index) in another namespace, down."""
    data = attribute(IFLA_IPVLAN_MODE, struct.pack("=H", mode)) + attribute(IFLA_IPVLAN_FLAGS, struct.pack("=H", flags))
    return _add_sublink("ipvlan", name, (parent, netns), data)


def add_vlan(name: str, parent: int, number: int) -> Request:
    """Ask for a link of one VLAN (802.1Q, 1 to 4094) of ``parent`` (an index), down."""
    identity = attribute(IFLA_VLAN_ID, struct.pack("=H", number))
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "vlan"), nested(IFLA_INFO_DATA, identity))
    body = link_body(0, name=name) + attribute_u32(IFLA_LINK, parent) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add vlan {name}")


def add_dummy(name: str) -> Request:
    """Ask for a link that leads nowhere, down."""
    body = link_body(0, name=name) + nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, "dummy"))
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add dummy {name}")


def _add_sublink(kind: str, name: str, where: tuple[int, int], data: bytes) -> Request:
    parent, netns = where
    info = nested(IFLA_LINKINFO, attribute_text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, data))
    body = link_body(0, name=name) + attribute_u32(IFLA_LINK, parent) + attribute_u32(IFLA_NET_NS_FD, netns) + info
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"add {kind} {name}")


def refuse_link_local(name: str) -> Request:
    """Ask a link not to give itself an IPv6 link-local address; to be asked while it is down."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    body = link_body(0, name=name) + nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    return Request(RTM_NEWLINK, 0, body, f"set address generation of link {name}")


def delete_link(index: int = 0, *, name: str = "") -> Request:
    """Ask for a link's removal, by index or by name."""
    return Request(RTM_DELLINK, 0, link_body(index, name=name), f"delete link {name or index}")


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
    body = link_body(index, up=up, name=name, address=address, mtu=mtu, alias=alias)
    if master is not None:
        body += attribute_u32(IFLA_MASTER, master)
    if netns >= 0:
        body += attribute_u32(IFLA_NET_NS_FD, netns)
    return Request(RTM_NEWLINK, 0, body, f"set link {index or name}")


def set_port_hairpin(index: int, *, enabled: bool) -> Request:
    """Ask a bridge to send frames back out of the port that they came in by, or not."""
    mode = attribute(IFLA_BRPORT_MODE, bytes([enabled]))
    body = IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + nested(IFLA_PROTINFO, mode)
    return Request(RTM_SETLINK, 0, body, f"set hairpin mode of link {index}")


def get_link(index: int = 0, *, name: str = "") -> Request:
    """Ask for one link's description, by index or by name."""
    return Request(RTM_GETLINK, 0, link_body(index, name=name), f"get link {name or index}")


def parse_link(message: Message) -> Link:
    """Return the link that a RTM_NEWLINK message describes."""
    _, _, index, flags, _ = IFINFO.unpack_from(message.body)
    found = parse_attributes(message.body[IFINFO.size :])
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    kind = text(info.get(IFLA_INFO_KIND, b""))
    stp = None
    if kind == "bridge":
        stp = number(parse_attributes(info.get(IFLA_INFO_DATA, b"")).get(IFLA_BR_STP_STATE)) != 0
    inet6 = parse_attributes(parse_attributes(found.get(IFLA_AF_SPEC, b"")).get(socket.AF_INET6, b""))
    conf = inet6.get(IFLA_INET6_CONF, b"")
    known = len(conf) >= 4 * (DEVCONF_DISABLE_IPV6 + 1)
    stats = found.get(IFLA_STATS64, b"")
    return Link(
        index=index,
        name=text(found.get(IFLA_IFNAME, b"")),
        flags=flags,
        mtu=number(found.get(IFLA_MTU)),
        address=found.get(IFLA_ADDRESS, b""),
        master=number(found.get(IFLA_MASTER)),
        kind=kind,
        alias=text(found.get(IFLA_IFALIAS, b"")),
        stp=stp,
        ipv6_disabled=number(conf[4 * DEVCONF_DISABLE_IPV6 :][:4]) != 0 if known else None,
        accept_ra=number(conf[4 * DEVCONF_ACCEPT_RA :][:4]) if known else None,
        statistics=LinkStatistics(*_STATS.unpack_from(stats)) if len(stats) >= _STATS.size else LinkStatistics(),
    )


def number(payload: bytes | None) -> int:
    """Return an attribute's number, 0 for one that is not there."""
    return int.from_bytes(payload, sys.byteorder) if payload else 0


def link_body(
    index: int, *, up: bool | None = None, name: str = "", address: bytes = b"", mtu: int = 0, alias: str = ""
) -> bytes:
    """Return the beginning of a link message: the header, and what is asked of the link."""
    change = IFF_UP if up is not None else 0
    parts = [IFINFO.pack(0, 0, index, IFF_UP if up else 0, change)]
    if name:
        parts.append(attribute_text(IFLA_IFNAME, name))
    if address:
        parts.append(attribute(IFLA_ADDRESS, address))
    if mtu:
        parts.append(attribute_u32(IFLA_MTU, mtu))
    if alias:
        parts.append(attribute_text(IFLA_IFALIAS, alias))
    return b"".join(parts)
