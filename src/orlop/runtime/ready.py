"""Children that were forked before anybody asked, so that a request never waits for a fork.

    spawner ──fork──▶ shim-to-be ──fork──▶ worker     waits for a packet on the engine's socket, which all workers share

The kernel gives a packet to one of those who wait. That worker says so on a pipe, upon which the spawner forks the next
pair; for a container when init builds its root, since two processes are busy until then. A worker that started a
container hands it to its parent, the shim; of any other work the parent has no part.

Nobody keeps an unused pair: a worker ends when the engine closed its end, when the spawner is gone (the pipe
``alive`` has no writer any more) and when its parent is gone.
"""

from __future__ import annotations

import os
import select
import struct

from orlop.kernel.plain import socket
from orlop.kernel.prctl import set_name
from orlop.primitives.channel import ProtocolError, receive_packet
from orlop.runtime.forking import fork, fork_worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.importing import Blocker

    # what a worker does with a request: packet, descriptors, the socket to its parent, and what to call when the next
    # pair may be forked, at the latest when it returns
    Work = Callable[[bytes, list[OwnedFd], socket.socket, Callable[[], None]], None]
    # what the parent does: the socket to its worker, and the worker's pid
    Shim = Callable[[socket.socket, int], None]
    # how a request is answered that no process can be had for
    Refuse = Callable[[bytes, list[OwnedFd], OSError], None]

# A container's start is followed by other requests at once (its network's successor, the removal of another's files).
COUNT = 2
# A pair is forked during a container's start, which a rehearsal would keep from a processor; it is over by then.
_QUIET_SECONDS = 0.015
_PID = struct.Struct("i")


class ReadyChildren:
    """Keeps :data:`COUNT` pairs of processes waiting. The spawner's, whose heap is everybody's: nothing here grows."""

    def __init__(
        self, channel: socket.socket, work: Work, shim: Shim, rehearse: Callable[[], None], blocker: Blocker
    ) -> None:
        """Take over the socket on which requests come; a worker calls ``rehearse`` when none came for a moment."""
        self._channel = channel
        self._work = work
        self._shim = shim
        self._rehearse = rehearse
        self._blocker = blocker
        self._waiting: set[int] = set()
        self._alive, self._held = os.pipe2(os.O_CLOEXEC)
        self._taken, self._tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        channel.setblocking(False)  # two may wake for one packet

    def serve(self, refuse: Refuse, children: int) -> None:
        """Serve until the engine closes its end; ``children`` is readable when a child ended."""
        while True:
            failure = self._fill()
            poll = select.poll()
            poll.register(self._channel, 0 if self._waiting else select.POLLIN)
            poll.register(self._taken, select.POLLIN)
            poll.register(children, select.POLLIN)
            ready = dict(poll.poll())
            if ready.get(self._channel.fileno(), 0) & (select.POLLHUP | select.POLLERR):
                return
            if self._taken in ready:
                self._forget(os.read(self._taken, 64 * _PID.size))
            if children in ready:
                self._reap(children)
            if self._channel.fileno() in ready and failure is not None and not self._waiting:
                self._refuse(refuse, failure)

    def _fill(self) -> OSError | None:
        """Fork what is missing; returns why that could not be."""
        keep = (self._channel.fileno(), self._alive, self._tell)
        while len(self._waiting) < COUNT:
            try:
                self._waiting.add(fork(keep, self._stand_by, self._blocker))
            except OSError as error:
                return error
        return None

    def _forget(self, pids: bytes) -> None:
        for (pid,) in _PID.iter_unpack(pids):
            self._waiting.discard(pid)

    def _reap(self, children: int) -> None:
        try:
            os.read(children, 4096)
        except BlockingIOError:
            return
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._waiting.discard(pid)

    def _refuse(self, refuse: Refuse, failure: OSError) -> None:
        try:
            packet, fds = receive_packet(self._channel)
        except (BlockingIOError, ConnectionResetError, ProtocolError):
            return
        refuse(packet, fds, failure)
        for fd in fds:
            fd.close()

    def _stand_by(self) -> None:
        """Be the parent: a shim if the worker makes a container."""
        set_name(b"orlop-ready")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        worker = fork_worker(lambda: self._await_request(ours, theirs))
        theirs.close()
        self._channel.close()
        os.close(self._alive)
        os.close(self._tell)
        self._shim(ours, worker)

    def _await_request(self, far: socket.socket, shim: socket.socket) -> None:
        """Be the worker: wait for one packet and work on it."""
        parent = os.getppid()
        far.close()
        os.setsid()
        timeout: float | None = _QUIET_SECONDS
        while True:
            ready = select.select([self._channel.fileno(), self._alive, shim.fileno()], [], [], timeout)[0]
            if not ready:
                timeout = None
                self._rehearse()
                continue
            if self._channel.fileno() not in ready:
                return
            try:
                packet, fds = receive_packet(self._channel)
            except BlockingIOError:
                continue
            except (ConnectionResetError, ProtocolError):
                return  # a broken packet's reply channel went with its descriptors: the engine sees the end of file
            break
        if not packet:
            return
        self._channel.close()
        os.close(self._alive)

        def taken() -> None:
            if self._tell >= 0:
                os.write(self._tell, _PID.pack(parent))
                os.close(self._tell)
                self._tell = -1

        try:
            self._work(packet, fds, shim, taken)
        finally:
            taken()
