"""sock_diag(7): which TCP sockets of a network namespace listen."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

from orlop.kernel.netlink import NLM_F_DUMP, Request

if TYPE_CHECKING:
    from orlop.kernel.netlink import Message

NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_TCP_LISTEN = 10
# struct inet_diag_req_v2: family, protocol, extensions, padding, states, struct inet_diag_sockid (48 bytes)
_REQUEST = struct.Struct("=BBBxI48x")
# struct inet_diag_msg up to the source: family, state, timer, retrans, source port, destination port, source
_ANSWER = struct.Struct(">BBBBHH16s")


def list_listeners(family: int) -> Request:
    """Ask for the listening TCP sockets of AF_INET or AF_INET6."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _TCP_LISTEN)
    return Request(_SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, body, "list listening sockets")


def parse_listener(message: Message) -> tuple[str, int]:
    """Return the address and port of a listening socket."""
    family, _, _, _, port, _, address = _ANSWER.unpack_from(message.body)
    return str(ipaddress.ip_address(address[:4] if family == socket.AF_INET else address)), port
