"""The bytes of one TLS connection, carried between its TCP socket and a local stream socket that knows nothing of TLS.

::

       peer ══TCP, ciphertext══ outer │ Relay │ inner ══socketpair, plaintext══ whoever thinks it has the connection

Whoever drives a relay waits for what :attr:`Relay.outer_events` and :attr:`Relay.inner_events` name (``POLLIN``,
``POLLOUT``) and calls :meth:`Relay.step`. Each direction holds one piece at most: what the receiver does not take is
not read from the sender. The ends:

====================================  ==========================================================================
the peer says close_notify            inner can read to its end; what is written to it still goes to the peer
TCP ends without it, or is reset      the peer is gone: what it sent is still delivered, then all is closed
inner's other end stops writing       close_notify to the peer; what the peer sends is still delivered
inner's other end is closed           what it wrote, close_notify and FIN; what the peer still sends is thrown away
                                      until it ends as well: a socket closed with input unread resets the connection,
                                      and the peer would lose what is on its way (RFC 1122, 4.2.2.13)
====================================  ==========================================================================
"""

from __future__ import annotations

import fcntl
import select
import socket
import ssl
import sys
import termios
import time

from orlop.tls.channel import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.tls.channel import Channel

PIECE = 1 << 16
PATIENCE = 600.0  # seconds that a peer which has been told everything may take to end as well
UNTAKEN = 60.0  # seconds that what a vanished peer had sent waits for whoever takes nothing
_MOST_UNREAD = 16 << 20
_BROKEN = select.POLLERR | select.POLLNVAL


class Relay:
    """One connection; owns both sockets, which do not block.

    Args:
        outer: the TCP socket.
        inner: one end of a socketpair.
        channel: after its handshake.
        unsent: ciphertext that is to be sent before the channel's.
        report: called with the reason, for people, when the connection breaks, before the sockets are closed.

    Attributes:
        finished: both sockets are closed.
    """

    def __init__(
        self,
        outer: socket.socket,
        inner: socket.socket,
        channel: Channel,
        *,
        unsent: bytes = b"",
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._outer = outer
        self._inner = inner
        self._channel = channel
        self._cipher = memoryview(unsent + channel.take())
        self._plain = memoryview(b"")
        self._input_ended = False  # inner was told that nothing more comes
        self._inner_ended = False  # nothing more comes from inner
        self._inner_closed = False
        self._said_all = False  # FIN was sent
        self._lost = ""  # why nothing can be sent to the peer any more
        self._thrown_away = 0
        self._moved = time.monotonic()
        self.finished = False
        self._report = report
        self._guarded(self._decrypt)  # the handshake's last segment may have had more behind it
        self._flush()

    @property
    def outer_events(self) -> int:
        """What to wait for at the TCP socket."""
        wanted = select.POLLOUT if self._cipher else 0
        if self._said_all or not (self._plain or self._channel.ended or self._inner_closed):
            wanted |= select.POLLIN
        return 0 if self.finished else wanted

    @property
    def inner_events(self) -> int:
        """What to wait for at the local socket."""
        if self.finished or self._inner_closed:
            return 0
        wanted = select.POLLOUT if self._plain else 0
        return wanted if self._cipher or self._inner_ended else wanted | select.POLLIN

    @property
    def sending(self) -> bool:
        """Whether something is on its way to the peer, or waits in the local socket."""
        if self.finished or self._cipher:
            return not self.finished
        return not (self._inner_ended or self._inner_closed) and bool(_poll(self._inner, select.POLLIN))

    @property
    def told(self) -> bool:
        """Whether the peer was sent all that the local side wrote, which has ended."""
        return self.finished or ((self._inner_ended or self._inner_closed) and not self._cipher)

    def unacknowledged(self) -> int:
        """Return how many bytes the peer's kernel has not got yet, the end among them."""
        if self.finished:
            return 0
        return int.from_bytes(fcntl.ioctl(self._outer, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def step(self, outer: int, inner: int) -> None:
        """Carry what can be carried; arguments are what poll(2) told of each socket. Never blocks, never raises."""
        if not self.finished:
            self._guarded(lambda: self._carry(outer, inner))
        if not self.finished:
            self._flush()

    def check(self) -> None:
        """Find out what no event tells: a peer that vanished while nothing is read from it, an end that takes too long.

        To be called every few seconds. A peer that takes nothing is waited for as long as TCP finds it alive: it is a
        pager, and wants the rest of the output later.
        """
        if self.finished:
            return
        resting = time.monotonic() - self._moved
        if _poll(self._outer, 0) & (_BROKEN | select.POLLHUP) and not self._said_all:
            if not (self.outer_events & select.POLLIN or (self._plain and resting < UNTAKEN)):
                self._fail("connection reset by peer")
        elif self._said_all and resting > PATIENCE:
            self.close()
        elif self._inner_ended and not self._inner_closed and _is_closed(self._inner):
            self._inner_closed = True
            self._moved = time.monotonic()
            self._flush()

    def close(self) -> None:
        """Close both sockets at once."""
        if not self.finished:
            self.finished = True
            self._outer.close()
            self._inner.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ssl.SSLError as error:
            self._send_alert()
            self._fail(describe(error))
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _carry(self, outer: int, inner: int) -> None:
        if outer & (select.POLLIN | select.POLLHUP | select.POLLERR) and self.outer_events & select.POLLIN:
            if self._said_all:
                self._throw_away()
                return
            self._receive()
        if inner & (select.POLLIN | select.POLLHUP | select.POLLERR) and self.inner_events & select.POLLIN:
            self._collect()

    def _receive(self) -> None:
        """Take ciphertext from the peer."""
        try:
            data = self._outer.recv(PIECE)
        except BlockingIOError:
            return
        self._moved = time.monotonic()
        if not data:  # without close_notify: the peer is gone, and all that it sent has been delivered
            if self._lost:
                self._fail(self._lost)
            self.close()
            return
        self._channel.feed(data)
        self._decrypt()

    def _decrypt(self) -> None:
        self._plain = memoryview(self._channel.read())
        if answer := self._channel.take():  # a new key of TLS 1.3 is acknowledged
            self._cipher = memoryview(bytes(self._cipher) + answer)

    def _collect(self) -> None:
        """Take plaintext from inner."""
        try:
            data = self._inner.recv(PIECE)
        except BlockingIOError:
            return
        except ConnectionResetError:  # closed with something unread: all that it wrote has been read
            data = b""
        if data:
            self._channel.write(data)
        else:
            self._inner_ended = True
            self._inner_closed = _is_closed(self._inner)
            self._moved = time.monotonic()
            self._channel.close()
        self._cipher = memoryview(self._channel.take())

    def _flush(self) -> None:
        """Send what is held in both directions, and what follows from having sent it."""
        self._guarded(self._send)

    def _send(self) -> None:
        while self._cipher:
            try:
                sent = self._outer.send(self._cipher, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError as error:  # what it sent before is still to be received and delivered
                self._lost = self._lost or error.strerror or str(error)
                self._cipher = memoryview(b"")
                break
            self._cipher = self._cipher[sent:]
            self._moved = time.monotonic()
        while self._plain and not self._inner_closed:
            try:
                sent = self._inner.send(self._plain, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except (BrokenPipeError, ConnectionResetError):
                # Nobody will read it. What was written before is still to be read: then the end will be seen.
                self._plain = memoryview(b"")
                self._input_ended = True
                if self._inner_ended:
                    self._inner_closed = True
                break
            self._plain = self._plain[sent:]
            self._moved = time.monotonic()
        if self._inner_closed:
            self._plain = memoryview(b"")
        self._end()

    def _end(self) -> None:
        if self._channel.broken is not None and not self._plain:
            raise self._channel.broken
        if self._lost and (self._channel.ended or self._inner_closed) and not self._plain:
            self._fail(self._lost)
            return
        if self._channel.ended and not self._plain and not self._input_ended:
            self._input_ended = True
            self._inner.shutdown(socket.SHUT_WR)
        if self._channel.ended and self._inner_ended and not self._plain:
            self._inner_closed = True
        if self._inner_closed and not self._cipher and not self._said_all:
            self._said_all = True
            self._outer.shutdown(socket.SHUT_WR)

    def _throw_away(self) -> None:
        """Read what the peer still sends after everything was said, until it ends as well."""
        try:
            data = self._outer.recv(PIECE)
        except BlockingIOError:
            return
        self._thrown_away += len(data)
        if not data or self._thrown_away > _MOST_UNREAD:
            self.close()

    def _send_alert(self) -> None:
        try:
            self._outer.send(bytes(self._cipher) + self._channel.take(), socket.MSG_NOSIGNAL)
        except OSError:
            return  # it is gone

    def _fail(self, reason: str) -> None:
        if self._report is not None:
            self._report(reason)
        self.close()


def _is_closed(sock: socket.socket) -> bool:
    """Whether the other end of a socketpair neither writes nor reads any more."""
    return bool(_poll(sock, 0) & (select.POLLHUP | select.POLLERR))


def _poll(sock: socket.socket, wanted: int) -> int:
    poll = select.poll()
    poll.register(sock, wanted)
    return sum(events for _, events in poll.poll(0))
