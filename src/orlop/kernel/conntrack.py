"""ctnetlink: the connections that the kernel remembers (uapi/linux/netfilter/nfnetlink_conntrack.h).

An address translation is chosen by a connection's first packet and holds for as long as packets come: a UDP peer that
keeps sending stays bound to the container, or to none, that was there when it began.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel.netlink import (
    NLM_F_DUMP,
    NetlinkError,
    Request,
    attribute,
    attribute_u32,
    nested,
    parse_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from orlop.kernel.netlink import Message, NetlinkSocket

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_GENERIC = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource id
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCE = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_DESTINATION = {4: 2, 6: 4}  # CTA_IP_V4_DST, CTA_IP_V6_DST
_PROTO_NUM, _PROTO_DESTINATION = 1, 3
# what of a tuple the kernel compares (enum ctattr_filter's flags, CTA_FILTER_F_*); before Linux 5.8 it compares nothing
_BY_SOURCE, _BY_PROTOCOL = 1 << 0, 1 << 3
_AT_ONCE = 128  # requests in one message
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Flow:
    """The ends of a connection.

    Attributes:
        source: who began it.
        destination: the address that it was sent to.
        answerer: who answers; another than ``destination`` where that was translated.
    """

    source: Address
    destination: Address
    answerer: Address


def forget_led_to(host: NetlinkSocket, address: str) -> int:
    """Forget all connections that an address answers, under whichever address and port others know it.

    Args:
        host: a socket of NETLINK_NETFILTER in the namespace that routes them.
        address: IPv4 or IPv6.

    Returns:
        how many there were.

    Raises:
        NetlinkError: the kernel keeps no connections, or does not tell.
    """
    parsed = ipaddress.ip_address(address)
    version, packed = parsed.version, parsed.packed
    match = nested(_TUPLE_IP, attribute(_SOURCE[version], packed))
    # the kernel leaves out those of IPv6 whose address is the same (ctnetlink_filter_match_tuple, up to Linux 6.18)
    found = host.dump(_list(version, _TUPLE_REPLY, match, _BY_SOURCE if version == 4 else 0))
    kind = _SOURCE[version]
    return _forget(host, version, (m for m in found if _tuple(m, _TUPLE_REPLY, _TUPLE_IP).get(kind) == packed))


def forget_udp_to(host: NetlinkSocket, ports: Collection[int], *, version: int) -> int:
    """Forget all flows of UDP that were sent to one of some ports, wherever they were led; likewise."""
    match = nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])))
    found = host.dump(_list(version, _TUPLE_ORIG, match, _BY_PROTOCOL))
    wanted = {port.to_bytes(2, "big") for port in ports}
    return _forget(host, version, (message for message in found if _udp_destination(message) in wanted))


def forget_where(host: NetlinkSocket, refused: Callable[[Flow], bool], *, version: int) -> int:
    """Forget all connections of an IP version of which ``refused`` holds; likewise."""
    found = host.dump(Request(_GET, NLM_F_DUMP, _GENERIC.pack(_FAMILIES[version], 0, 0), "list connections"))
    return _forget(host, version, (message for message in found if refused(_flow(message, version))))


def _list(version: int, place: int, match: bytes, flags: int) -> Request:
    both = (flags, 0) if place == _TUPLE_ORIG else (0, flags)
    chosen = nested(_FILTER, *(attribute_u32(kind, value) for kind, value in enumerate(both, 1)))
    body = _GENERIC.pack(_FAMILIES[version], 0, 0) + nested(place, match) + chosen
    return Request(_GET, NLM_F_DUMP, body, "list connections")


def _forget(host: NetlinkSocket, version: int, found: Iterable[Message]) -> int:
    requests = [_deletion(message, version) for message in found]
    for start in range(0, len(requests), _AT_ONCE):
        try:
            host.execute(*requests[start : start + _AT_ONCE])
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # one ended meanwhile; all others were carried out
                raise
    return len(requests)


def _deletion(message: Message, version: int) -> Request:
    kept = parse_attributes(message.body[_GENERIC.size :])
    body = _GENERIC.pack(_FAMILIES[version], 0, 0) + nested(_TUPLE_ORIG, kept[_TUPLE_ORIG])
    body += b"".join(attribute(kind, kept[kind]) for kind in (_ID, _ZONE) if kind in kept)
    return Request(_DELETE, 0, body, "forget a connection")


def _flow(message: Message, version: int) -> Flow:
    there, back = (_tuple(message, place, _TUPLE_IP) for place in (_TUPLE_ORIG, _TUPLE_REPLY))
    source, destination = _SOURCE[version], _DESTINATION[version]
    ends = (there[source], there[destination], back[source])
    return Flow(*(ipaddress.ip_address(end) for end in ends))


def _tuple(message: Message, place: int, part: int) -> dict[int, bytes]:
    whole = parse_attributes(message.body[_GENERIC.size :]).get(place, b"")
    return parse_attributes(parse_attributes(whole).get(part, b""))


def _udp_destination(message: Message) -> bytes:
    """Return the port that a flow of UDP was sent to; b"" for one of another protocol (before Linux 5.8)."""
    found = _tuple(message, _TUPLE_ORIG, _TUPLE_PROTO)
    return found.get(_PROTO_DESTINATION, b"") if found.get(_PROTO_NUM) == bytes([socket.IPPROTO_UDP]) else b""
