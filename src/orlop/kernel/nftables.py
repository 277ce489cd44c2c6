"""nf_tables spoken directly, for the few rules of a container's own namespace (uapi/linux/netfilter/nf_tables.h).

The host's rules are text for ``nft`` (``network.firewall``); here one batch redirects port 53 of the resolver's
address, and no program is run.
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
_NF_INET_LOCAL_OUT = 3
_PRIORITY_DNAT = -100
_NF_ACCEPT = 1
_META_L4PROTO = 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_IPV4_DESTINATION, _PORT_DESTINATION = 16, 2  # offsets in the headers
_NAT_DNAT = 1
_REGISTER = 1


def redirect_output(table: str, address: bytes, redirects: Iterable[tuple[int, int, int]]) -> list[Request]:
    """Ask for a table that leads the namespace's own packets elsewhere; one of that name is replaced.

    Args:
        table: its name.
        address: IPv4 address that the packets go to, which stays.
        redirects: (IP protocol, port that they go to, port that they are led to).
    """
    whole = attribute_text(1, table)
    hook = nested(4, _number(1, _NF_INET_LOCAL_OUT), _number(2, _PRIORITY_DNAT))
    chain = attribute_text(1, table) + attribute_text(3, "output") + hook + _number(5, _NF_ACCEPT)
    requests = [
        _request(_BATCH_BEGIN, b"", family=0, resource=10),
        _request(_NEWTABLE, whole, flags=NLM_F_CREATE),  # so that there is one to delete
        _request(_DELTABLE, whole),
        _request(_NEWTABLE, whole, flags=NLM_F_CREATE),
        _request(_NEWCHAIN, chain + attribute_text(7, "nat"), flags=NLM_F_CREATE),
    ]
    for protocol, port, target in redirects:
        expressions = (
            *_match_payload(_NETWORK_HEADER, _IPV4_DESTINATION, address),
            _expression("meta", _number(1, _REGISTER), _number(2, _META_L4PROTO)),
            _equals(bytes([protocol])),
            *_match_payload(_TRANSPORT_HEADER, _PORT_DESTINATION, port.to_bytes(2, "big")),
            _expression("immediate", _number(1, _REGISTER), nested(2, attribute(1, target.to_bytes(2, "big")))),
            _expression("nat", _number(1, _NAT_DNAT), _number(2, socket.AF_INET), _number(5, _REGISTER)),
        )
        rule = attribute_text(1, table) + attribute_text(2, "output") + nested(4, *expressions)
        requests.append(_request(_NEWRULE, rule, flags=NLM_F_CREATE | NLM_F_APPEND))
    requests.append(_request(_BATCH_END, b"", family=0, resource=10))
    return requests


def _request(kind: int, body: bytes, *, flags: int = 0, family: int = socket.AF_INET, resource: int = 0) -> Request:
    return Request(kind, flags, _GENERIC.pack(family, 0, resource) + body, "set nf_tables rules")


def _number(kind: int, value: int) -> bytes:
    """Return an attribute of a 32-bit number in network order, as nf_tables has them all."""
    return attribute(kind, struct.pack(">i", value))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, attribute_text(1, name), nested(2, *data))


def _match_payload(header: int, offset: int, value: bytes) -> tuple[bytes, bytes]:
    load = (_number(1, _REGISTER), _number(2, header), _number(3, offset), _number(4, len(value)))
    return _expression("payload", *load), _equals(value)


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER), _number(2, 0), nested(3, attribute(1, value)))
