"""Carries what the kernel can't lead: ports published on an IP version, or on a loopback, that it has no rule for.

IPv6 has no ``route_localnet``, so answers to ``[::1]`` never come back from a container; and no rule turns IPv6 into
IPv4, for containers that have only that. Docker runs a docker-proxy for each published port. Here one thread of the
engine serves all of them: TCP by splice(2), without copying, UDP datagram by datagram. Everything else goes through the
kernel alone and is not slowed down by it. Without the engine, what goes this way stops until it is back.

As with docker-proxy the container sees the bridge's address as its client.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orlop.network.relay_stream import RESET, PipePool, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_STREAMS = 4096  # connections under way
_MOST_FLOWS = 1024  # peers of UDP ports
_FLOW_SECONDS = 90.0  # an idle UDP peer is remembered; as docker-proxy's
_SWEEP_SECONDS = 10.0
_BACKLOG = 256
_BURST = 64  # datagrams or connections that are taken before others get their turn
_LONGEST = 65536
_DATAGRAMS = 256 * 1024  # bytes of datagrams that wait
_PKTINFO = struct.Struct("16sI")  # struct in6_pktinfo
_PKTINFO4 = struct.Struct("i4s4s")  # struct in_pktinfo
_Address = tuple[str, int]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Listener:
    socket: socket.socket
    target: _Address
    udp: bool


@dataclass(slots=True, eq=False)
class _Flow:
    listener: _Listener
    peer: tuple[str, int]
    local: list[tuple[int, int, bytes]]  # control message that makes answers leave from where they were asked
    socket: socket.socket
    used: float


class Relay:
    """Owns the sockets that it is given, and the thread, which runs from the first of them on.

    Args:
        forbidden: tells whether a peer (its address, as the kernel gives it) may not come in; called in the thread.
        refused: is told when a container refused a connection, and by which socket; likewise.
    """

    def __init__(self, forbidden: Callable[[str], bool], refused: Callable[[socket.socket], None]) -> None:
        self._forbidden = forbidden
        self._refused = refused
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self._closed = False
        self._watched: dict[int, _Listener | _Flow | Stream] = {}  # by descriptor
        self._flows: dict[tuple[int, tuple[str, int], bytes], _Flow] = {}
        self._streams = 0
        self._busy: deque[Stream] = deque()  # had more to carry than one turn
        self._pipes = PipePool()

    # --- called from the event loop ---

    def open_tcp(self, sock: socket.socket, target: tuple[str, int]) -> None:
        """Listen at a bound socket, and carry its connections to a container.

        Raises:
            OSError: it can't listen.
        """
        sock.setblocking(False)
        # connections inherit it, so that the port can be bound again while the last of them fade out; it lets
        # nobody else in, because this socket listens
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.listen(_BACKLOG)
        self._open(sock, target, udp=False)

    def open_udp(self, sock: socket.socket, target: tuple[str, int]) -> None:
        """Carry datagrams between a bound socket and a container. Raises OSError."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DATAGRAMS)
        _ask_for_local_address(sock)
        self._open(sock, target, udp=True)

    def _open(self, sock: socket.socket, target: tuple[str, int], *, udp: bool) -> None:
        listener = _Listener(sock, target, udp)
        self._do(lambda: self._watch(sock.fileno(), listener, select.EPOLLIN))

    def pause(self, sock: socket.socket) -> None:
        """Stop listening; the port stays taken, and what came in goes on."""
        self._forget_listener(sock)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)  # which a listener survives as a bound socket (inet_shutdown)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def close_socket(self, sock: socket.socket) -> None:
        """Let go of a socket and of all that came in by it; the port is free when this returns."""
        listener = self._forget_listener(sock)
        sock.close()
        if self._thread is not None:
            self._do(lambda: self._drop(listener, sock))

    def _forget_listener(self, sock: socket.socket) -> object:
        if self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(sock.fileno())
        return self._watched.pop(sock.fileno(), None)

    def close(self) -> None:
        """End the thread and everything that is under way."""
        self._closed = True
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None

    def _do(self, command: Callable[[], None]) -> None:
        """Have something done in the thread."""
        if self._thread is None:
            self._epoll = select.epoll()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._wake, select.EPOLLIN)
            self._thread = threading.Thread(target=self._run, name="port-relay", daemon=True)
            self._thread.start()
        self._commands.append(command)
        os.eventfd_write(self._wake, 1)

    # --- the thread ---

    def _run(self) -> None:
        assert self._epoll is not None  # noqa: S101 - made before the thread
        swept = time.monotonic()
        while not self._closed:
            for number, _ in self._epoll.poll(0 if self._busy else _SWEEP_SECONDS):
                self._guard(self._serve, number)
            for _ in range(len(self._busy)):
                self._guard(self._pump, self._busy.popleft())
            now = time.monotonic()
            if now - swept > _SWEEP_SECONDS:
                swept = now
                self._sweep(now)
        for watched in list(self._watched.values()):
            if isinstance(watched, Stream):
                watched.close()
            else:
                watched.socket.close()
        self._watched.clear()
        self._pipes.close()
        self._epoll.close()
        os.close(self._wake)

    @staticmethod
    def _guard(action: Callable[[_T], None], subject: _T) -> None:
        try:
            action(subject)
        except Exception:  # noqa: BLE001 - nothing of one peer may end the others'
            _log.exception("published port: relay failed")

    def _serve(self, number: int) -> None:
        if number == self._wake:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            while self._commands:
                with contextlib.suppress(OSError):  # the socket was closed meanwhile
                    self._commands.popleft()()
            return
        watched = self._watched.get(number)
        if isinstance(watched, Stream):
            self._pump(watched)
        elif isinstance(watched, _Flow):
            self._answer(watched)
        elif watched is not None and watched.udp:
            self._receive(watched)
        elif watched is not None:
            self._accept(watched)

    def _watch(self, number: int, watched: _Listener | _Flow | Stream, events: int) -> None:
        if number < 0:
            return  # closed meanwhile
        assert self._epoll is not None  # noqa: S101 - made before the thread
        self._watched[number] = watched
        self._epoll.register(number, events)

    def _forget(self, sock: socket.socket) -> None:
        number = sock.fileno()
        if number >= 0:
            self._watched.pop(number, None)
            sock.close()  # which takes it out of the epoll set as well

    def _drop(self, listener: object, sock: socket.socket) -> None:
        for watched in set(self._watched.values()):
            if isinstance(watched, Stream) and watched.listener is sock:
                self._end(watched)
        for number, watched in list(self._watched.items()):
            if isinstance(watched, _Listener) and watched.socket is sock:
                self._watched.pop(number, None)
        for key, flow in list(self._flows.items()):
            if flow.listener is listener:
                del self._flows[key]
                self._forget(flow.socket)

    def _sweep(self, now: float) -> None:
        for key, flow in list(self._flows.items()):
            if now - flow.used > _FLOW_SECONDS:
                del self._flows[key]
                self._forget(flow.socket)

    # --- TCP ---

    def _accept(self, listener: _Listener) -> None:
        for _ in range(_BURST):
            try:
                client, peer = listener.socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    time.sleep(0.01)  # it stays readable: no busy loop meanwhile
                if error.errno == errno.ECONNABORTED:
                    continue
                return
            if self._streams >= _MOST_STREAMS or self._forbidden(peer[0]):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                continue
            self._connect(listener, client)

    def _connect(self, listener: _Listener, client: socket.socket) -> None:
        family = socket.AF_INET6 if ":" in listener.target[0] else socket.AF_INET
        try:
            server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        client.setblocking(False)
        stream = Stream(client, server, listener=listener.socket, pipes=self._pipes)
        self._streams += 1
        if server.connect_ex(listener.target) not in (0, errno.EINPROGRESS):
            self._end(stream, reset=True)
            return
        both = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
        self._watch(client.fileno(), stream, both)
        self._watch(server.fileno(), stream, both)

    def _pump(self, stream: Stream) -> None:
        if stream.closed:
            return
        try:
            more = stream.pump()
        except OSError as error:
            if error.errno == errno.ECONNREFUSED and not stream.connected:
                self._refused(stream.listener)
            self._end(stream, reset=True)
            return
        if stream.finished:
            self._end(stream)
        elif more:
            self._busy.append(stream)

    def _end(self, stream: Stream, *, reset: bool = False) -> None:
        for sock in (stream.client, stream.server):
            self._watched.pop(sock.fileno(), None)
        stream.close(reset=reset)
        self._streams -= 1

    # --- UDP ---

    def _receive(self, listener: _Listener) -> None:
        for _ in range(_BURST):
            try:
                data, control, _, peer = listener.socket.recvmsg(_LONGEST, 256)
            except OSError:
                return
            local = _answer_from(control)
            key = listener.socket.fileno(), peer, local[0][2] if local else b""
            flow = self._flows.get(key)
            if flow is None:
                flow = self._begin(listener, peer, local)
                if flow is None:
                    continue
                self._flows[key] = flow
            flow.used = time.monotonic()
            with contextlib.suppress(OSError):  # as on any way, a datagram may be lost
                flow.socket.send(data)

    def _begin(self, listener: _Listener, peer: tuple[str, int], local: list[tuple[int, int, bytes]]) -> _Flow | None:
        if len(self._flows) >= _MOST_FLOWS or self._forbidden(peer[0]):
            return None
        family = socket.AF_INET6 if ":" in listener.target[0] else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            return None
        try:
            sock.connect(listener.target)
        except OSError:
            sock.close()
            return None
        flow = _Flow(listener, peer, local, sock, 0.0)
        self._watch(sock.fileno(), flow, select.EPOLLIN)
        return flow

    @staticmethod
    def _answer(flow: _Flow) -> None:
        for _ in range(_BURST):
            try:
                data = flow.socket.recv(_LONGEST)
            except BlockingIOError:
                return
            except OSError:
                continue  # ECONNREFUSED: nobody listens in the container
            flow.used = time.monotonic()
            with contextlib.suppress(OSError):
                flow.listener.socket.sendmsg([data], flow.local, 0, flow.peer)


def _ask_for_local_address(sock: socket.socket) -> None:
    """Have the kernel tell with each datagram which address it was sent to."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO


def _answer_from(control: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return the control message that makes an answer leave from the address that was asked."""
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, data[: _PKTINFO.size])]
        if (level, kind) == (socket.IPPROTO_IP, 8):
            _, _, address = _PKTINFO4.unpack(data[: _PKTINFO4.size])
            return [(level, kind, _PKTINFO4.pack(0, address, bytes(4)))]
    return []
