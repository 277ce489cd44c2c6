"""Network namespaces for the engine, which never enters one: made, or opened by a descriptor, in a child and sent back.

A child also opens sockets inside and writes the namespace's settings, as the message asks ("wished" are a user's: they
have to be there and to be taken):

    {"op": "netns", "sockets": [...]}                                   -> descriptors: namespace, sockets
    {"op": "netns-of", "sockets": [...], "settings": {path: value}, "wished": {path: value}} fd
                                                                        -> likewise; fd is a pidfd or a namespace
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel.plain import socket
from orlop.kernel.process import CLONE_NEWNET, setns, unshare
from orlop.primitives.owned_fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject, JsonValue

_NETLINK = {"route": 0, "diag": 4, "netfilter": 12}  # include/uapi/linux/netlink.h
RESOLVER_ADDRESS = "127.0.0.11"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # include/uapi/linux/sockios.h, if.h
_BACKLOG = 16
# What a new namespace starts with: IPv6 only where a network brings it (threats.md G1), and Docker's two
# conveniences for programs without CAP_NET_BIND_SERVICE and CAP_NET_RAW.
_SYSCTLS = {
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv4/ip_unprivileged_port_start": "0",
    "ipv4/ping_group_range": "0 2147483647",
}
_MOST_SOCKETS = 24


def answer_new_namespace(reply: Channel, message: JsonObject, _fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``netns``: a fresh namespace and sockets inside it; the child that made it does not stay there."""
    with _own_namespace() as before:
        unshare(CLONE_NEWNET)
        try:
            write_settings(_SYSCTLS)
            raise_loopback()
            _answer(reply, message)
        finally:
            setns(before.fileno(), CLONE_NEWNET)


def answer_namespace_of(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``netns-of``: the namespace of the process behind the pidfd."""
    if len(fds) != 1:
        raise InvalidParameterError("netns-of takes one pidfd")
    setns(fds[0].fileno(), CLONE_NEWNET)
    settings = message.get("settings")
    if isinstance(settings, dict):
        write_settings({name: str(value) for name, value in settings.items()})
    wished = message.get("wished")
    if isinstance(wished, dict):
        write_wished({name: str(value) for name, value in wished.items()})
    _answer(reply, message)


def raise_loopback() -> None:
    """Switch the calling thread's loopback on: a socket can only be bound to an address that is there."""
    with_flags = struct.pack("16sh14x", b"lo", _IFF_UP)
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, with_flags)
    probe.close()


def write_settings(settings: Mapping[str, str]) -> None:
    """Write files below /proc/sys/net of the calling thread's namespace; what the kernel lacks is left out."""
    for name, value in settings.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            _write(_path_of(name), value)


def write_wished(settings: Mapping[str, str]) -> None:
    """Write files below /proc/sys/net of the calling thread's namespace that a user named.

    Raises:
        SystemFailureError: one is not there, or the kernel does not take its value; in Docker's words.
    """
    for name, value in settings.items():
        path = _path_of(name)
        try:
            _write(path, value)
        except (FileNotFoundError, IsADirectoryError):
            raise SystemFailureError(f"{path} is not a sysctl file") from None
        except OSError as error:
            raise SystemFailureError(f"unable to write to '{path}': {os.strerror(error.errno or 0).lower()}") from error


def _path_of(name: str) -> str:
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidParameterError(f"not a network setting: {name}")
    return f"/proc/sys/net/{name}"


def _write(path: str, value: str) -> None:
    with OwnedFd(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)) as fd:
        os.write(fd.fileno(), value.encode())


def open_sockets(kinds: Iterable[JsonValue]) -> list[socket.socket]:
    """Open sockets in the calling thread's namespace.

    Args:
        kinds: "route", "netfilter" and "diag" (netlink); "udp4", "udp6", "tcp4", "tcp6", bound to nothing;
            "resolver-udp" and "resolver-tcp", bound to the resolver's address, and with "-53" behind to its well-known
            port.
    """
    return [_open_socket(str(kind)) for kind in kinds]


def _open_socket(kind: str) -> socket.socket:
    if kind in _NETLINK:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK[kind])
    udp = "udp" in kind
    family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
    made = socket.socket(family, (socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) | socket.SOCK_CLOEXEC)
    if kind.startswith("resolver-"):
        made.bind((RESOLVER_ADDRESS, 53 if kind.endswith("-53") else 0))
        if not udp:
            made.listen(_BACKLOG)
    return made


def _own_namespace() -> OwnedFd:
    return OwnedFd(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))


def _answer(reply: Channel, message: JsonObject) -> None:
    kinds = message.get("sockets")
    if not isinstance(kinds, list) or len(kinds) > _MOST_SOCKETS:
        raise InvalidParameterError("sockets is a list of kinds")
    sockets = open_sockets(kinds)
    with _own_namespace() as namespace:
        reply.send({"ok": True}, [namespace.fileno(), *(made.fileno() for made in sockets)])
    for made in sockets:
        made.close()
