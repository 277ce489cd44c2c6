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
    from orlop.cli.invocation import Invocation

_CHUNK = 65536


def _dial(invocation: Invocation) -> int:
    stream = open_socket(invocation.client.transport.address)
    try:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(stream, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if 0 in ready:
                data = os.read(0, _CHUNK)
                if data:
                    stream.sendall(data)
                else:
                    poll.unregister(0)
                    stream.shutdown(socket.SHUT_WR)
            if stream.fileno() in ready:
                data = stream.recv(_CHUNK)
                if not data:
                    return 0
                write_all(1, data)
    finally:
        stream.close()


DIAL_STDIO = Command("", "Connect standard input and output to the engine's socket", _dial)
