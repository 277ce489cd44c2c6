"""nf_tables spoken directly, for the few rules of a container's own namespace (uapi/linux/netfilter/nf_tables.h).

The host's rules are text for ``nft`` (``network.firewall``); here one batch leads port 53 of the resolver's address
elsewhere, and no program is run.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from orlop.kernel.netlink import NLM_F_APPEND, NLM_F_CREATE, Request, attribute, attribute_text, nested

if TYPE_CHECKING:
    from collections.abc import Iterable

NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = _SUBSYSTEM | 0, _SUBSYSTEM | 2, _SUBSYSTEM | 3, _SUBSYSTEM | 6
_GENERIC = struct.Struct(">BBH")  # struct nfgenmsg: family, version, resource id
_NFPROTO_NETDEV = 5
_NF_NETDEV_INGRESS = 0
_NF_ACCEPT = 1
_META_PROTOCOL, _META_L4PROTO = 1, 16
_ETH_P_IP = 0x0800
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_REGISTER = 1
_CHECKSUM_INET = 1
# offsets in the headers
_IPV4_SOURCE, _IPV4_DESTINATION = 12, 16
_PORT_SOURCE, _PORT_DESTINATION = 0, 2
_CHECKSUM = {socket.IPPROTO_ICMP: 2, socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}
_ICMP_PORT_UNREACHABLE = b"\x03\x03"  # type and code
_ICMP_PORT_DESTINATION = 8 + 20 + _PORT_DESTINATION  # behind the headers of ICMP and of the packet that it is about


def lead_ports(
    table: str, address: bytes, ports: Iterable[tuple[int, int, int]], *, fresh: bool = False
) -> list[Request]:
    """Ask for a table that leads packets on loopback to other ports, and answers back; one of that name is replaced.

    The ports are written into packets as they arrive at ``lo``, each by itself. NAT would have the kernel track all
    connections of the namespace: 7 % of a round trip between two containers.

    Args:
        table: its name.
        address: IPv4 address of loopback that the packets go to, which stays.
        ports: (IP protocol, TCP or UDP; port that they go to; port that they are led to).
        fresh: there is no table of that name. The kernel would take the one that is made to be replaced apart after a
            grace period of RCU, and let who closes the socket wait for that, 8 to 14 ms.
    """
    whole = attribute_text(1, table)
    hook = nested(4, _number(1, _NF_NETDEV_INGRESS), _number(2, 0), attribute_text(3, "lo"))
    chain = attribute_text(1, table) + attribute_text(3, "ingress") + hook + _number(5, _NF_ACCEPT)
    made = _request(_NEWTABLE, whole, flags=NLM_F_CREATE)
    requests = [
        _request(_BATCH_BEGIN, b"", family=0, resource=10),
        *(() if fresh else (made, _request(_DELTABLE, whole))),  # made first, so that there is one to delete
        made,
        _request(_NEWCHAIN, chain + attribute_text(7, "filter"), flags=NLM_F_CREATE),
    ]
    to, back = (_IPV4_DESTINATION, address), (_IPV4_SOURCE, address)
    for protocol, port, target in ports:
        rules = [
            (*_match(*to, protocol), *_replace_port(protocol, _PORT_DESTINATION, port, target)),
            (*_match(*back, protocol), *_replace_port(protocol, _PORT_SOURCE, target, port)),
        ]
        if protocol == socket.IPPROTO_UDP:  # nobody is there: the one who asked must know that it is about his packet
            icmp = socket.IPPROTO_ICMP
            unreachable = _equals(_TRANSPORT_HEADER, 0, _ICMP_PORT_UNREACHABLE)
            replacing = _replace_port(icmp, _ICMP_PORT_DESTINATION, target, port)
            rules.append((*_match(*back, icmp), *unreachable, *replacing))
        for expressions in rules:
            rule = attribute_text(1, table) + attribute_text(2, "ingress") + nested(4, *expressions)
            requests.append(_request(_NEWRULE, rule, flags=NLM_F_CREATE | NLM_F_APPEND))
    requests.append(_request(_BATCH_END, b"", family=0, resource=10))
    return requests


def _request(kind: int, body: bytes, *, flags: int = 0, family: int = _NFPROTO_NETDEV, resource: int = 0) -> Request:
    return Request(kind, flags, _GENERIC.pack(family, 0, resource) + body, "set nf_tables rules")


def _number(kind: int, value: int) -> bytes:
    """Return an attribute of a 32-bit number in network order, as nf_tables has them all."""
    return attribute(kind, struct.pack(">i", value))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, attribute_text(1, name), nested(2, *data))


def _match(offset: int, address: bytes, protocol: int) -> tuple[bytes, ...]:
    """Match IPv4 packets with an address; it comes first, because most packets have another."""
    ipv4 = _META_PROTOCOL, _ETH_P_IP.to_bytes(2, "big")
    transport = _META_L4PROTO, bytes([protocol])
    return (*_equals(_NETWORK_HEADER, offset, address), *_meta_equals(*ipv4), *_meta_equals(*transport))


def _equals(header: int, offset: int, value: bytes) -> tuple[bytes, bytes]:
    load = (_number(1, _REGISTER), _number(2, header), _number(3, offset), _number(4, len(value)))
    return _expression("payload", *load), _compare(value)


def _meta_equals(key: int, value: bytes) -> tuple[bytes, bytes]:
    return _expression("meta", _number(1, _REGISTER), _number(2, key)), _compare(value)


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER), _number(2, 0), nested(3, attribute(1, value)))


def _replace_port(protocol: int, offset: int, old: int, new: int) -> tuple[bytes, ...]:
    """Match a port behind the transport header's begin and write another one, and the checksum."""
    return (
        *_equals(_TRANSPORT_HEADER, offset, old.to_bytes(2, "big")),
        _expression("immediate", _number(1, _REGISTER), nested(2, attribute(1, new.to_bytes(2, "big")))),
        _expression(
            "payload",
            *(_number(5, _REGISTER), _number(2, _TRANSPORT_HEADER), _number(3, offset), _number(4, 2)),
            *(_number(6, _CHECKSUM_INET), _number(7, _CHECKSUM[protocol])),
        ),
    )
