"""Host ports: who has which, held against other programs.

A published port is a firewall rule, not a process. So that no other program takes the port meanwhile, the engine keeps
a socket that is bound and never listens: a connection that no rule leads to a container is refused at once, so
that nothing accepts before the application does. Where the kernel has no rule that leads to the container, the socket
is given to the relay (``relay.py``), as Docker's go to docker-proxy.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError, UnsupportedError
from orlop.spec.ports import PortBinding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.network.relayed import RelayedPorts
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.ports import PortRequest

DOCKER_RANGE = (32768, 60999)
_WAITS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # seconds
LOOPBACK6 = "::1"
_ANY, _ANY6 = "0.0.0.0", "::"
_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}


def local_port_range(path: str = "/proc/sys/net/ipv4/ip_local_port_range") -> tuple[int, int]:
    """Return the range that random host ports come from: the kernel's ephemeral one, as Docker does."""
    try:
        with open(path, encoding="ascii") as file:
            low, high = (int(word) for word in file.read(64).split())
    except (OSError, ValueError):
        return DOCKER_RANGE
    return (low, high) if 0 < low <= high <= 65535 else DOCKER_RANGE


class PortInUseError(SystemFailureError):
    """Another program has the port, or had it just now."""


@dataclass(frozen=True, slots=True)
class _Hold:
    binding: PortBinding
    socket: socket.socket | None
    relayed: bool = False


def listens_on_ipv6() -> bool:
    """Whether this host has IPv6 at all, found out as Docker does."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.bind((LOOPBACK6, 0))
    except OSError:
        return False
    return True


class PortAllocator:
    """Gives out host ports and holds them.

    Args:
        dynamic: where random ports come from.
        relay: carries what the kernel can't lead; None: such ports are refused, or left out where nobody named them.
        ipv6: whether the host has it.
    """

    def __init__(
        self,
        *,
        dynamic: tuple[int, int] = DOCKER_RANGE,
        relay: RelayedPorts | None = None,
        ipv6: bool = True,
    ) -> None:
        self._relay = relay
        self._ipv6 = ipv6
        self._dynamic = dynamic
        self._next = dynamic[0]
        self._taken: dict[tuple[str, int], set[str]] = {}  # (protocol, port) -> host addresses
        self._holds: dict[str, list[_Hold]] = {}  # owner -> what it holds

    def allocate(
        self,
        owner: str,
        requests: Sequence[PortRequest],
        *,
        address: str,
        address6: str = "",
        default_ip: str = _ANY,
    ) -> tuple[PortBinding, ...]:
        """Take a host port for each request; all or none.

        Args:
            owner: whose they are, for :meth:`release`.
            requests: what is wanted; chosen ports are taken before random ones.
            address: the container's IPv4 address, or "".
            address6: its IPv6 address, or "".
            default_ip: what is published on without a host address; "0.0.0.0" means [::] as well.

        Raises:
            SystemFailureError: a port is taken, in Docker's words.
            UnsupportedError: a host address of an IP version that the container has not.
        """
        held: list[_Hold] = []
        try:
            for request in sorted(requests, key=lambda request: request.first == 0):
                took = self._take(request, self._hosts(request, address, address6, default_ip), address or address6)
                for hold in took:
                    held.append(hold)
                    held[-1] = self._relayed(owner, hold, {4: address, 6: address6})
                    key = request.protocol, hold.binding.host_port
                    self._taken.setdefault(key, set()).add(hold.binding.host_ip)
        except BaseException:
            self._drop(owner, held)
            raise
        self._holds.setdefault(owner, []).extend(held)
        return tuple(sorted(hold.binding for hold in held))

    async def take(
        self,
        owner: str,
        requests: Sequence[PortRequest],
        *,
        address: str,
        address6: str = "",
        default_ip: str = _ANY,
    ) -> tuple[PortBinding, ...]:
        """Do the same, but wait a moment for a port that the kernel says is in use.

        A program that the engine starts (iptables) has copies of all descriptors for as long as it takes from clone(2)
        to execve(2): what was closed just now is still bound then.
        """
        for wait in _WAITS:
            try:
                return self.allocate(owner, requests, address=address, address6=address6, default_ip=default_ip)
            except PortInUseError:
                await asyncio.sleep(wait)
        return self.allocate(owner, requests, address=address, address6=address6, default_ip=default_ip)

    def release(self, owner: str) -> None:
        """Give back everything that the owner holds."""
        self._drop(owner, self._holds.pop(owner, []))

    def close(self) -> None:
        """Let go of all sockets (the engine ends; rules stay)."""
        for owner in list(self._holds):
            self.release(owner)

    def _drop(self, owner: str, holds: Sequence[_Hold]) -> None:
        for hold in holds:
            key = hold.binding.protocol, hold.binding.host_port
            addresses = self._taken.get(key, set())
            addresses.discard(hold.binding.host_ip)
            if not addresses:
                self._taken.pop(key, None)
            if hold.socket is not None and hold.relayed and self._relay is not None:
                self._relay.close(owner, hold.socket)
            elif hold.socket is not None:
                hold.socket.close()

    def _hosts(self, request: PortRequest, address: str, address6: str, default_ip: str) -> tuple[str, ...]:
        """Return the host addresses that a request is published on."""
        if not request.host_ip:
            able = address6 or (self._relay is not None and self._ipv6 and request.protocol != "sctp")
            wide = able and (default_ip == _ANY or not address)
            return (*((default_ip,) if address else ()), *((_ANY6,) if wide else ()))
        six = ":" in request.host_ip
        if self._relay is not None and request.protocol != "sctp":
            return (request.host_ip,)
        if ipaddress.ip_address(request.host_ip) == ipaddress.ip_address(LOOPBACK6):
            # the kernel has no route_localnet for IPv6: answers to ::1 never leave a container
            raise UnsupportedError("cannot publish on ::1: publish on 127.0.0.1 instead")
        if not (address6 if six else address):
            raise UnsupportedError(
                f"cannot publish on {request.host_ip}: the container has no {'IPv6' if six else 'IPv4'} address"
            )
        return (request.host_ip,)

    def _relayed(self, owner: str, hold: _Hold, addresses: Mapping[int, str]) -> _Hold:
        """Have the relay carry what no rule leads to the container, and what the host's own [::1] gets."""
        binding = hold.binding
        version = 6 if ":" in binding.host_ip else 4
        same, other = addresses[version], addresses[10 - version]
        if self._relay is None or hold.socket is None or binding.protocol == "sctp":
            return hold
        if same and binding.host_ip not in (LOOPBACK6, _ANY6):
            return hold
        try:
            target = same or other, binding.container_port
            self._relay.open(owner, hold.socket, target, udp=binding.protocol == "udp")
        except OSError as error:
            where = f"{_shown(binding.host_ip)}:{binding.host_port}"
            reason = os.strerror(error.errno or 0).lower()
            raise SystemFailureError(f"failed to bind host port for {where}: {reason}") from error
        return replace(hold, relayed=True)

    def watch(self, owner: str, netns: OwnedFd) -> None:
        """Let what the relay carries of an owner's ports listen as soon as programs in its namespace do."""
        if self._relay is not None:
            self._relay.watch(owner, netns)

    def _take(self, request: PortRequest, hosts: tuple[str, ...], address: str) -> list[_Hold]:
        host_ip = hosts[0]
        fixed = request.first == request.last != 0
        low, high = (request.first, request.last) if request.first else self._dynamic
        ports: Sequence[int] = range(low, high + 1)
        if not request.first:
            start = self._next if low <= self._next <= high else low
            ports = [*range(start, high + 1), *range(low, start)]
        for port in ports:
            if any(self._conflicts(request.protocol, port, host) for host in hosts):
                if fixed:
                    raise SystemFailureError(f"Bind for {_shown(host_ip)}:{port} failed: port is already allocated")
                continue
            try:
                held = _hold_all(request, hosts, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and not fixed:
                    continue
                reason = os.strerror(error.errno or 0).lower()
                where = f"{_shown(host_ip)}:{port}:{address}:{request.container_port}/{request.protocol}"
                kind = PortInUseError if error.errno == errno.EADDRINUSE else SystemFailureError
                raise kind(f"failed to bind host port for {where}: {reason}") from error
            if not request.first:
                self._next = port + 1
            return held
        raise SystemFailureError(f"Bind for {host_ip} failed: all ports are allocated")

    def _conflicts(self, protocol: str, port: int, host_ip: str) -> bool:
        addresses = self._taken.get((protocol, port), set())
        if ":" in host_ip:
            addresses = {address for address in addresses if ":" in address}
            return bool(addresses) and (host_ip == _ANY6 or _ANY6 in addresses or host_ip in addresses)
        addresses = {address for address in addresses if ":" not in address}
        return bool(addresses) and (host_ip == _ANY or _ANY in addresses or host_ip in addresses)


def _shown(host_ip: str) -> str:
    """Return an address as it stands before a port."""
    return f"[{host_ip}]" if ":" in host_ip else host_ip


def _hold_all(request: PortRequest, hosts: tuple[str, ...], port: int) -> list[_Hold]:
    """Hold a port on each address, or on none. Raises OSError."""
    held: list[_Hold] = []
    try:
        for host_ip in hosts:
            binding = PortBinding(request.container_port, request.protocol, host_ip, port)
            held.append(_Hold(binding, _hold(request.protocol, host_ip, port)))
    except BaseException:
        for hold in held:
            if hold.socket is not None:
                hold.socket.close()
        raise
    return held


def _hold(protocol: str, host_ip: str, port: int) -> socket.socket | None:
    """Return a socket bound to the port, or None where the kernel lacks the protocol."""
    kind, number = _KINDS[protocol]
    try:
        family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, number)
    except OSError as error:
        if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None
        raise
    try:
        if ":" in host_ip:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "udp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # nothing is ever read from it
        try:
            sock.bind((host_ip, port))
        except OSError as error:
            if protocol != "tcp" or error.errno != errno.EADDRINUSE:
                raise
            # SO_REUSEADDR passes over connections in TIME_WAIT that a former server left, not over a listener.
            # It is taken back afterwards: with it on ours, another program could listen here.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host_ip, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock
