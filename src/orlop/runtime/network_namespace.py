"""Network namespaces for the engine, which never enters one: made, or opened by pidfd, in a child and sent back."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.kernel.plain import socket
from orlop.kernel.process import CLONE_NEWNET, setns, unshare
from orlop.primitives.owned_fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject

NETLINK_ROUTE = 0
# What a new namespace starts with: IPv6 only where a network brings it (threats.md G1), and Docker's two
# conveniences for programs without CAP_NET_BIND_SERVICE and CAP_NET_RAW.
_SYSCTLS = (
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
)


def answer_new_namespace(reply: Channel, _message: JsonObject, _fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``netns``: a fresh namespace and a netlink socket inside it."""
    unshare(CLONE_NEWNET)
    for name, value in _SYSCTLS:
        try:
            fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # a kernel without IPv6
        with OwnedFd(fd):
            os.write(fd, value.encode())
    _answer(reply)


def answer_namespace_of(reply: Channel, _message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``netns-of``: the namespace of the process behind the pidfd."""
    if len(fds) != 1:
        raise InvalidParameterError("netns-of takes one pidfd")
    setns(fds[0].fileno(), CLONE_NEWNET)
    _answer(reply)


def _answer(reply: Channel) -> None:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    with OwnedFd(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
        reply.send({"ok": True}, [namespace.fileno(), netlink.fileno()])
    netlink.close()
