"""Clients that come by TLS: accepted, shaken hands with, and each joined to a socketpair that the API serves.

::

    client ══TCP══▶ TlsListener ──handshake──▶ Relay ══socketpair══▶ Connection (hijack.py), as from a unix socket

So whatever takes a connection away from HTTP gets a descriptor that it can give to a shim, as always (ADR 14). Who has
not shown a good certificate gets neither a socketpair nor a byte, holds one descriptor, for seconds, and no more than
:data:`MOST_HANDSHAKES` of them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from orlop.tls.channel import Channel, describe
from orlop.tls.relay import PIECE, Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HANDSHAKE_SECONDS = 10.0
MOST_HANDSHAKES = 256
_FAREWELL_SECONDS = 2.0
_CHECK_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_DRAIN_TRIES = 100  # of 10 ms
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_NO_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

_log = logging.getLogger(__name__)


class TlsListener:
    """Owns a listening TCP socket and every connection that came by it.

    Args:
        sock: bound and listening, not blocking.
        context: the engine's certificate, and what clients must show.
        serve: gets the local end of a connection, which it owns from then on.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, serve: Callable[[socket.socket], Awaitable[object]]
    ) -> None:
        self._sock = sock
        self._context = context
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._handshakes: dict[_Handshake, None] = {}  # oldest first
        self._carriers: set[_Carrier] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._checking: asyncio.TimerHandle | None = None
        self._told = 0.0
        self._listen()

    def stop(self) -> None:
        """Take no more connections."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        for handshake in list(self._handshakes):
            handshake.close()

    async def close(self) -> None:
        """End all connections, those that were given away too, once what is on its way was sent."""
        for _ in range(_DRAIN_TRIES):
            if not any(carrier.relay.sending for carrier in self._carriers):
                break
            await asyncio.sleep(0.01)
        for carrier in list(self._carriers):
            carrier.close()
        if self._checking is not None:
            self._checking.cancel()

    def _listen(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            # Nobody can be let in now, and the socket stays readable: as many tries as seconds (faults.md R19).
            _log.error("connection by TLS cannot be accepted: %s", error.strerror)
            self._loop.remove_reader(self._sock)
            self._loop.call_later(_RETRY_SECONDS, self._listen)
            return
        client.setblocking(False)
        with contextlib.suppress(OSError):  # it has left already
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                client.setsockopt(socket.IPPROTO_TCP, option, value)
        if len(self._handshakes) >= MOST_HANDSHAKES:
            next(iter(self._handshakes)).close()
        handshake = _Handshake(self._loop, client, Channel(self._context, server=True), self._handshake_ended)
        self._handshakes[handshake] = None
        handshake.start()

    def _handshake_ended(self, handshake: _Handshake, client: socket.socket | None, failure: str) -> None:
        del self._handshakes[handshake]
        if failure:
            self._tell(f"TLS handshake error from {handshake.peer}: {failure}")
        if client is None:
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            client.close()
            self._tell(f"connection from {handshake.peer} cannot be served: {error.strerror}")
            return
        ours.setblocking(False)
        theirs.setblocking(False)
        descriptors = client.fileno(), ours.fileno()
        relay = Relay(client, ours, handshake.channel, unsent=handshake.unsent)
        carrier = _Carrier(self._loop, relay, descriptors, self._carriers.discard)
        self._carriers.add(carrier)
        carrier.update()
        task = self._loop.create_task(self._hand_over(theirs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._checking is None:
            self._checking = self._loop.call_later(_CHECK_SECONDS, self._check)

    async def _hand_over(self, theirs: socket.socket) -> None:
        try:
            await self._serve(theirs)
        except OSError:
            theirs.close()

    def _check(self) -> None:
        for carrier in list(self._carriers):
            carrier.check()
        again = bool(self._carriers)
        self._checking = self._loop.call_later(_CHECK_SECONDS, self._check) if again else None

    def _tell(self, message: str) -> None:
        """Log what strangers do, a line a second at most."""
        now = time.monotonic()
        _log.log(logging.INFO if now - self._told >= 1 else logging.DEBUG, "%s", message)
        if now - self._told >= 1:
            self._told = now


class _Handshake:
    """A connection before its first byte of plaintext.

    Attributes:
        channel: of the connection.
        peer: its address, for the log.
        unsent: ciphertext that the socket has not taken yet.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        channel: Channel,
        ended: Callable[[_Handshake, socket.socket | None, str], None],
    ) -> None:
        self.channel = channel
        self.peer = _peer(sock)
        self._loop = loop
        self._sock = sock
        self._ended = ended
        self._failure = ""
        self.unsent = b""
        self._heard = False
        self._over = False
        self._timer = loop.call_later(HANDSHAKE_SECONDS, self.close)

    def start(self) -> None:
        """Listen to the client."""
        self._loop.add_reader(self._sock, self._receive)

    def close(self) -> None:
        """Let go of the client: too late, too many, or the end."""
        self._end(None, self._failure or ("i/o timeout" if self._heard else ""))

    def _receive(self) -> None:
        try:
            data = self._sock.recv(PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(None, self._failure or (error.strerror or "").lower())
            return
        if not data:
            self._end(None, self._failure or ("EOF" if self._heard else ""))
        elif not self._failure:  # else it is thrown away, so that the client reads why
            self._heard = True
            self._go_on(data)

    def _go_on(self, data: bytes) -> None:
        done = False
        self.channel.feed(data)
        try:
            done = self.channel.handshake()
        except ssl.SSLError as error:
            self._failure = describe(error)
            self.unsent += _NO_TLS if error.reason == "HTTP_REQUEST" else self.channel.take()
            self._send()
            self._say_goodbye()
            return
        if done:  # what is left to be sent is the relay's, with the first plaintext
            self._end(self._sock, "")
            return
        self.unsent += self.channel.take()
        self._send()

    def _say_goodbye(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._timer.cancel()
        self._timer = self._loop.call_later(_FAREWELL_SECONDS, self.close)

    def _send(self) -> None:
        try:
            sent = self._sock.send(self.unsent, socket.MSG_NOSIGNAL) if self.unsent else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._end(None, self._failure or (error.strerror or "").lower())
            return
        self.unsent = self.unsent[sent:]
        if self.unsent:
            self._loop.add_writer(self._sock, self._send)
        else:
            self._loop.remove_writer(self._sock)

    def _end(self, sock: socket.socket | None, failure: str) -> None:
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        if sock is None:
            self._sock.close()
        self._ended(self, sock, failure)


class _Carrier:
    """Moves a relay whenever one of its sockets is ready.

    Attributes:
        relay: what is moved.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        relay: Relay,
        descriptors: tuple[int, int],
        ended: Callable[[_Carrier], None],
    ) -> None:
        self.relay = relay
        self._loop = loop
        self._outer, self._inner = descriptors
        self._ended = ended
        self._watched = (0, 0)

    def update(self) -> None:
        """Wait for what the relay wants, or be done with it."""
        wanted = self.relay.outer_events, self.relay.inner_events
        if wanted != self._watched:
            before, self._watched = self._watched, wanted
            self._watch(self._outer, before[0], wanted[0], outer=True)
            self._watch(self._inner, before[1], wanted[1], outer=False)
        if self.relay.finished:
            self._ended(self)

    def check(self) -> None:
        """Look for what no event tells."""
        self.relay.check()
        self.update()

    def close(self) -> None:
        """Cut the connection."""
        self.relay.close()
        self.update()

    def _watch(self, descriptor: int, before: int, wanted: int, *, outer: bool) -> None:
        changed = before ^ wanted
        if changed & select.POLLIN:
            if wanted & select.POLLIN:
                self._loop.add_reader(descriptor, self._step, select.POLLIN, outer)
            else:
                self._loop.remove_reader(descriptor)
        if changed & select.POLLOUT:
            if wanted & select.POLLOUT:
                self._loop.add_writer(descriptor, self._step, select.POLLOUT, outer)
            else:
                self._loop.remove_writer(descriptor)

    def _step(self, events: int, outer: bool) -> None:  # noqa: FBT001 - the loop passes no keywords
        self.relay.step(events if outer else 0, 0 if outer else events)
        self.update()


def _peer(sock: socket.socket) -> str:
    try:
        address = sock.getpeername()
    except OSError:
        return "a client that left"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
