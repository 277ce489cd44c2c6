"""One relayed TCP connection: two sockets, and bytes that are spliced both ways through pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

RESET = struct.pack("ii", 1, 0)  # struct linger: close(2) answers with a reset, so that no failure looks like an end
_PIPE_SIZE = 1024 * 1024  # fs.pipe-max-size; with a quarter of it a gigabyte costs a fifth more CPU
_TURNS = 16  # pipes full that are carried before others get their turn
_MOST_IDLE = 64
_F_SETPIPE_SZ = 1031
_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class PipePool:
    """Pipes for those connections that have something under way just now; idle ones need none."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """Return an empty pipe. Raises OSError."""
        if self._idle:
            return self._idle.pop()
        ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # beyond pipe-user-pages-soft: the default size does as well
            fcntl.fcntl(ends[1], _F_SETPIPE_SZ, _PIPE_SIZE)
        return ends

    def give_back(self, ends: tuple[int, int], *, empty: bool) -> None:
        """Keep a pipe for another; one with bytes in it is closed."""
        if empty and len(self._idle) < _MOST_IDLE:
            self._idle.append(ends)
            return
        for end in ends:
            os.close(end)

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            for end in self._idle.pop():
                os.close(end)


class _Direction:
    __slots__ = ("destination", "done", "ended", "pending", "pipe", "pipes", "source")

    def __init__(self, source: socket.socket, destination: socket.socket, pipes: PipePool) -> None:
        self.source, self.destination, self.pipes = source, destination, pipes
        self.pipe: tuple[int, int] | None = None
        self.pending = 0  # bytes in the pipe
        self.ended = False  # the source has no more
        self.done = False  # and the destination knows

    def carry(self) -> bool:
        """Carry until one side has to wait; tells whether there may be more at once. Raises OSError."""
        for _ in range(_TURNS):
            if self.done:
                return False
            if not self.pending and not self.ended and not self._fill():
                return False
            if self.pending and not self._drain():
                return False
            if self.ended and not self.pending:
                self.destination.shutdown(socket.SHUT_WR)
                self.done = True
                self.release()
        return not self.done

    def _fill(self) -> bool:
        if self.pipe is None:
            self.pipe = self.pipes.take()
        try:
            self.pending = os.splice(self.source.fileno(), self.pipe[1], _PIPE_SIZE, flags=_FLAGS)
        except BlockingIOError:
            self.release()
            return False
        self.ended = self.pending == 0
        return True

    def _drain(self) -> bool:
        assert self.pipe is not None  # noqa: S101 - there are bytes in it
        try:
            self.pending -= os.splice(self.pipe[0], self.destination.fileno(), self.pending, flags=_FLAGS)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self.pipe is not None:
            self.pipes.give_back(self.pipe, empty=not self.pending)
            self.pipe = None


class Stream:
    """A client's connection and the one to the container, both owned and non-blocking, the latter perhaps under way.

    Attributes:
        listener: where the client came in.
        connected: the container has accepted.
        closed: the sockets are gone.
    """

    __slots__ = ("_back", "_there", "client", "closed", "connected", "listener", "server")

    def __init__(
        self, client: socket.socket, server: socket.socket, *, listener: socket.socket, pipes: PipePool
    ) -> None:
        self.client, self.server, self.listener = client, server, listener
        for sock in (client, server):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._there = _Direction(client, server, pipes)
        self._back = _Direction(server, client, pipes)
        self.connected = False
        self.closed = False

    @property
    def finished(self) -> bool:
        """Whether both sides have said all they had to say."""
        return self._there.done and self._back.done

    def pump(self) -> bool:
        """Carry what there is; tells whether there may be more at once.

        Raises:
            OSError: a side is gone, or the container refused.
        """
        if not self.connected:
            reason = self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if reason:
                raise OSError(reason, os.strerror(reason))
            try:
                self.server.getpeername()
            except OSError:
                return False  # the connection to the container is under way
            self.connected = True
        more = self._there.carry()
        return self._back.carry() or more

    def close(self, *, reset: bool = False) -> None:
        """Close both sockets; with ``reset`` both sides learn that it failed."""
        if self.closed:
            return
        self.closed = True
        for direction in (self._there, self._back):
            direction.release()
        for sock in (self.client, self.server):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
