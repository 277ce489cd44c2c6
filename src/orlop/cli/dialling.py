"""``system dial-stdio``: standard input and output joined to the engine's socket, for clients that come over ssh."""

from __future__ import annotations

import os
import select
import socket

from orlop.cli.flags import Command
from orlop.cli.streaming import write_all
from orlop.client.connection import open_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from orlop.cli.invocation import Invocation

_CHUNK = 65536


def _dial(invocation: Invocation) -> int:
    stream = open_socket(invocation.client.transport.address)
    try:
        stream.setblocking(False)
        _join(stream)
    finally:
        stream.close()
    return 0


def _join(stream: _socket.socket) -> None:
    """Carry both ways at once, until the engine has said all: it may wait for its reader before it reads on."""
    outgoing, reading = b"", True
    while True:
        poll = select.poll()
        poll.register(stream, select.POLLIN | (select.POLLOUT if outgoing else 0))
        if reading and not outgoing:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        try:
            if 0 in ready:
                outgoing = os.read(0, _CHUNK)
                if not outgoing:
                    reading = False
                    stream.shutdown(socket.SHUT_WR)
            if outgoing:
                outgoing = outgoing[stream.send(outgoing) :]
        except BlockingIOError:
            pass
        except OSError:  # it reads no more, but has said why
            outgoing, reading = b"", False
        if ready.get(stream.fileno(), 0) & ~select.POLLOUT:
            try:
                data = stream.recv(_CHUNK)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return
            if not data:
                return
            write_all(1, data)


DIAL_STDIO = Command("", "Connect standard input and output to the engine's socket", _dial)
