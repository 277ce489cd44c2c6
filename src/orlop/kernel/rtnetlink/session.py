"""rtnetlink over one socket."""

from __future__ import annotations

import errno
import socket

from orlop.kernel.netlink import NLM_F_DUMP, Message, NetlinkError, NetlinkSocket, Request, attribute_u32
from orlop.kernel.rtnetlink.addresses import (
    IFADDR,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTMSG,
    Address,
    Route,
    parse_address,
    parse_route,
)
from orlop.kernel.rtnetlink.links import (
    IFLA_EXT_MASK,
    IFLA_MASTER,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETLINK,
    Link,
    get_link,
    link_body,
    parse_link,
)


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

    def find_link(self, name: str) -> Link | None:
        """Return the link of that name, None if there is none. Raises NetlinkError."""
        try:
            return self.link(name)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def link_at(self, index: int) -> Link:
        """Return the link of that index. Raises NetlinkError ENODEV."""
        return parse_link(self.execute(get_link(index))[0])

    def links(self, *, master: int = 0) -> list[Link]:
        """Return all links, or the ports of one bridge; without statistics."""
        body = link_body(0) + attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        if master:
            body += attribute_u32(IFLA_MASTER, master)
        return [parse_link(m) for m in self._netlink.dump(Request(RTM_GETLINK, NLM_F_DUMP, body, "list links"))]

    def addresses(self, index: int = 0) -> list[Address]:
        """Return the addresses of one link, or of all."""
        request = Request(RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(0, 0, 0, 0, index), "list addresses")
        return [parse_address(message) for message in self._netlink.dump(request)]

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """Return the unicast routes of the main table."""
        body = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        messages = self._netlink.dump(Request(RTM_GETROUTE, NLM_F_DUMP, body, "list routes"))
        return [route for route in map(parse_route, messages) if route is not None]
