"""Clients that are attached to a container which does not run yet."""

from __future__ import annotations

import asyncio
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.launch import AttachTarget

_MOST = 16


@dataclass(frozen=True, slots=True)
class PendingClient:
    """One of them; owns the socket."""

    target: AttachTarget
    socket: OwnedFd


class PendingClients:
    """Those of one container, oldest first; owns them.

    Who only listens is let go when the connection has ended. What a client with standard input has said, and that it
    says no more, is the program's once it starts (so with Docker): it stays until its place is needed. A connection has
    ended when both directions have: who has closed its own alone still listens.
    """

    def __init__(self) -> None:
        self._clients: dict[int, PendingClient] = {}  # by descriptor
        self._left: list[int] = []  # those of them who have left, and whose input is kept
        self._hang_ups: select.epoll | None = None  # of the others, while there are clients

    def __iter__(self) -> Iterator[PendingClient]:
        return iter(self._clients.values())

    def make_room(self) -> bool:
        """Whether one more may come, if need be in the place of one who has left."""
        if len(self._clients) >= _MOST:
            self._note_hang_ups()
            for fd in self._left:
                self._clients.pop(fd).socket.close()
            self._left.clear()
        return len(self._clients) < _MOST

    def add(self, client: PendingClient) -> None:
        """Take a client. Raises OSError; its socket is closed then."""
        try:
            if self._hang_ups is None:
                self._hang_ups = select.epoll()
                asyncio.get_running_loop().add_reader(self._hang_ups, self._note_hang_ups)
            self._hang_ups.register(client.socket, 0)  # hang-ups are told without being asked for: epoll_ctl(2)
        except OSError:
            client.socket.close()
            raise
        self._clients[client.socket.fileno()] = client

    def take(self) -> list[PendingClient]:
        """Return all; their sockets are the caller's."""
        found = list(self._clients.values())
        self._clients.clear()
        self._left.clear()
        self._stop_listening()
        return found

    def close(self) -> None:
        """Hang up on all."""
        for client in self.take():
            client.socket.close()

    def _note_hang_ups(self) -> None:
        if self._hang_ups is None:
            return
        for fd, _ in self._hang_ups.poll(0):
            self._hang_ups.unregister(fd)
            if self._clients[fd].target.stdin:
                self._left.append(fd)
            else:
                self._clients.pop(fd).socket.close()
        if not self._clients:
            self._stop_listening()

    def _stop_listening(self) -> None:
        if self._hang_ups is not None:
            asyncio.get_running_loop().remove_reader(self._hang_ups)
            self._hang_ups.close()
            self._hang_ups = None
