"""Ports that the relay carries: each listens while the container's program does, and refuses before and after.

So that nothing accepts before the application does, the kernel is asked which sockets of the container
listen: some milliseconds after the start, then less and less often until it does. When a connection was refused, the
port stops listening and the asking begins again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.kernel.netlink import NetlinkError, NetlinkSocket
from orlop.kernel.sock_diag import list_listeners, parse_listener
from orlop.network.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.network.pool import NamespaceFactory
    from orlop.primitives.owned_fd import OwnedFd

_FIRST, _GROWTH, _LONGEST = 0.03, 1.5, 2.0  # seconds between questions
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Owner:
    targets: dict[socket.socket, tuple[str, int]] = field(default_factory=dict)  # of TCP
    waiting: set[socket.socket] = field(default_factory=set)  # those that do not listen yet
    datagrams: set[socket.socket] = field(default_factory=set)
    netns: OwnedFd | None = None
    task: asyncio.Task[None] | None = None


class RelayedPorts:
    """Owns the sockets that it is given; call everything from the event loop.

    Args:
        namespaces: asks inside containers.
        forbidden: who may not come in; see :class:`orlop.network.relay.Relay`.
    """

    def __init__(self, namespaces: NamespaceFactory, forbidden: Callable[[str], bool]) -> None:
        self._namespaces = namespaces
        self._relay = Relay(forbidden, refused=self._refused_in_thread)
        self._owners: dict[str, _Owner] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, owner: str, sock: socket.socket, target: tuple[str, int], *, udp: bool) -> None:
        """Carry what arrives at a bound socket to a container; TCP from when :meth:`watch` finds a listener there.

        Raises:
            OSError: the kernel refused.
        """
        found = self._owners.setdefault(owner, _Owner())
        if udp:
            self._relay.open_udp(sock, target)
            found.datagrams.add(sock)
        else:
            found.targets[sock] = target
            found.waiting.add(sock)

    def watch(self, owner: str, netns: OwnedFd) -> None:
        """Let an owner's ports listen as soon as its programs do; one that has none is no error.

        Args:
            owner: as given to :meth:`open`.
            netns: the container's, borrowed.
        """
        found = self._owners.get(owner)
        if found is not None and found.targets:
            self._loop = asyncio.get_running_loop()
            if found.netns is None:
                found.netns = netns.duplicate()
            self._ask_soon(found)

    def close(self, owner: str, sock: socket.socket) -> None:
        """Let go of a socket and of all that came in by it; the port is free when this returns."""
        found = self._owners.get(owner, _Owner())
        found.targets.pop(sock, None)
        found.waiting.discard(sock)
        found.datagrams.discard(sock)
        self._relay.close_socket(sock)
        if not found.targets:
            if found.task is not None:
                found.task.cancel()
            if found.netns is not None:
                found.netns.close()
                found.netns = None
            if not found.datagrams:
                self._owners.pop(owner, None)

    def close_all(self) -> None:
        """End the relay; its owners have let go of their sockets."""
        self._relay.close()

    # --- parts ---

    def _ask_soon(self, owner: _Owner) -> None:
        if owner.waiting and owner.netns is not None and (owner.task is None or owner.task.done()):
            owner.task = asyncio.get_running_loop().create_task(self._ask(owner), name="port-listeners")

    async def _ask(self, owner: _Owner) -> None:
        assert owner.netns is not None  # noqa: S101 - see _ask_soon
        await asyncio.sleep(_FIRST)  # leaves the processors to the container that is just being started
        try:
            sock = await self._open(owner.netns.duplicate())
        except (OrlopError, OSError) as error:
            _log.debug("cannot ask which ports listen: %s", error)
            self._begin_all(owner)
            return
        with contextlib.closing(NetlinkSocket(sock)) as inside:
            delay = _FIRST
            while owner.waiting:
                try:
                    heard = _listeners(inside)
                except NetlinkError as error:  # without inet_diag in the kernel: as docker-proxy does
                    _log.debug("%s", error)
                    self._begin_all(owner)
                    return
                for waiting in list(owner.waiting):
                    if _hears(heard, owner.targets[waiting]):
                        self._begin(owner, waiting)
                await asyncio.sleep(delay)
                delay = min(delay * _GROWTH, _LONGEST)

    async def _open(self, netns: OwnedFd) -> socket.socket:
        """Return a socket that tells about a namespace, which is given away; cancelled, none is left open."""

        async def work() -> socket.socket:
            with netns:
                (sock,) = await self._namespaces.open_inside(netns.fileno(), sockets=["diag"])
                return sock

        opening = asyncio.ensure_future(work())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_result)
            raise

    def _begin_all(self, owner: _Owner) -> None:
        for waiting in list(owner.waiting):
            self._begin(owner, waiting)

    def _begin(self, owner: _Owner, sock: socket.socket) -> None:
        owner.waiting.discard(sock)
        try:
            self._relay.open_tcp(sock, owner.targets[sock])
        except OSError as error:
            _log.warning("published port %s cannot listen: %s", sock.getsockname()[:2], error)

    def _refused_in_thread(self, sock: socket.socket) -> None:
        """Have the loop ask again; called in the relay's thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._refused, sock)

    def _refused(self, sock: socket.socket) -> None:
        for owner in self._owners.values():
            if sock in owner.targets:
                self._relay.pause(sock)
                owner.waiting.add(sock)
                self._ask_soon(owner)


def _close_result(opening: asyncio.Task[socket.socket]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _listeners(inside: NetlinkSocket) -> set[tuple[str, int]]:
    return {
        parse_listener(message)
        for family in (socket.AF_INET, socket.AF_INET6)
        for message in inside.dump(list_listeners(family))
    }


def _hears(heard: set[tuple[str, int]], target: tuple[str, int]) -> bool:
    address, port = target
    every = ("::",) if ":" in address else ("0.0.0.0", "::")
    return any((each, port) in heard for each in (address, f"::ffff:{address}", *every))
