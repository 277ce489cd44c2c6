"""Connections to an engine by TLS: a thread of their own carries the bytes, and the client has a plain stream socket.

So attaching, polling and half-closing are what they are with a unix socket (``tls/relay.py`` says what becomes of each
end). The thread ends with the connection, and does not keep a program from ending; what the program wrote before its
end is still sent, for :data:`FAREWELL_SECONDS` at most.
"""

from __future__ import annotations

import atexit
import select
import socket
import ssl
import threading
import time
import weakref

from orlop.client.failure import ConnectionFailedError
from orlop.primitives.scope import suppress
from orlop.tls.channel import Channel, describe
from orlop.tls.relay import PIECE, Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.client.address import Address

FAREWELL_SECONDS = 3.0
_CHECK_MILLISECONDS = 5000
_ACKNOWLEDGEMENT_MILLISECONDS = 10
# of each connection that is carried: set when the peer has all that the program wrote, and the program's end
_carried: dict[threading.Event, weakref.ref[TlsSocket]] = {}


class TlsSocket(socket.socket):
    """The client's end of a connection.

    Attributes:
        failure: why the connection broke, when it did: certificates are judged after the handshake in TLS 1.3.
    """

    failure = ""

    def break_down(self, reason: str) -> None:
        """Take the reason, before the end of the stream is seen."""
        self.failure = reason


def open_tls(address: Address, context: ssl.SSLContext, timeout: float | None) -> TlsSocket:
    """Connect and shake hands.

    Raises:
        ConnectionFailedError: the other side speaks no TLS, or is not whom it should be.
        OSError: nobody listens.
    """
    outer = socket.create_connection((address.host, address.port), timeout)
    try:
        channel = Channel(context, server=False, host=address.host)
        unsent = _shake_hands(outer, channel, address)
        ours, theirs = socket.socketpair()
    except BaseException:
        outer.close()
        raise
    outer.setblocking(False)
    theirs.setblocking(False)
    found = TlsSocket(fileno=ours.detach())
    found.settimeout(timeout)
    descriptors = outer.fileno(), theirs.fileno()
    known, told = weakref.ref(found), threading.Event()  # a socket that is forgotten is closed, as others are

    def report(reason: str) -> None:
        if (sock := known()) is not None:
            sock.break_down(reason)

    relay = Relay(outer, theirs, channel, unsent=unsent, report=report)
    _carried[told] = known
    threading.Thread(target=_carry, args=(relay, descriptors, told), name="orlop-tls", daemon=True).start()
    return found


def _shake_hands(outer: socket.socket, channel: Channel, address: Address) -> bytes:
    """Return what is to be sent behind the handshake."""
    try:
        while not channel.handshake():
            outer.sendall(channel.take())
            data = outer.recv(PIECE)
            if not data:
                raise ConnectionFailedError("error during connect: EOF")
            channel.feed(data)
    except ssl.SSLError as error:
        with suppress(OSError):  # it has left
            outer.send(channel.take(), socket.MSG_NOSIGNAL)
        raise ConnectionFailedError(f"error during connect: {_describe(error, address.host)}") from None
    return channel.take()


def _describe(error: ssl.SSLError, host: str) -> str:
    if error.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG"):
        return "http: server gave HTTP response to HTTPS client"
    return describe(error, host)


def _carry(relay: Relay, descriptors: tuple[int, int], told: threading.Event) -> None:
    outer, inner = descriptors
    checked = time.monotonic()
    while not relay.finished:
        timeout = _CHECK_MILLISECONDS
        if relay.told and not told.is_set():
            # What the peer has not got is lost if the program ends: its tickets find nobody, and the kernel resets.
            if relay.unacknowledged():
                timeout = _ACKNOWLEDGEMENT_MILLISECONDS
            else:
                told.set()
        poll = select.poll()
        wanted = {outer: relay.outer_events, inner: relay.inner_events}
        for descriptor, events in wanted.items():
            if events:
                poll.register(descriptor, events)
        ready = dict(poll.poll(timeout))
        relay.step(ready.get(outer, 0), ready.get(inner, 0))
        if time.monotonic() - checked > _CHECK_MILLISECONDS / 1000:
            checked = time.monotonic()
            relay.check()
    told.set()
    del _carried[told]


@atexit.register
def _say_all() -> None:
    """End all connections, once what the program wrote was sent: the kernel does no less for other sockets."""
    deadline = time.monotonic() + FAREWELL_SECONDS
    for told, known in list(_carried.items()):
        if (sock := known()) is not None:
            with suppress(OSError):  # it is closed
                sock.shutdown(socket.SHUT_RDWR)
        told.wait(max(deadline - time.monotonic(), 0))
