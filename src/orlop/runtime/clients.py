"""Clients attached to a container: their sockets are the shim's, their bytes never pass through the engine.

Each has a bounded buffer. When it is full the container's output is not read until there is room, as with Docker; a
client that holds the container up and has not taken a byte for :data:`STUCK_SECONDS` is cut off, so that a forgotten
terminal cannot hold it for ever.
"""

from __future__ import annotations

import time

from orlop.kernel.plain import socket
from orlop.primitives.scope import suppress
from orlop.runtime.detach import DetachKeys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.launch import AttachTarget

BUFFER_LIMIT = 1 << 20
EXCESS_LIMIT = 4 << 20  # two pipes of the largest size that an unprivileged program may set, and more
STUCK_SECONDS = 60.0
_CHUNK = 64 * 1024
_MOST_UNREAD = 16 << 20
STREAM_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def frame(stream: str, data: bytes) -> bytes:
    """Return ``data`` behind Docker's 8-byte header: stream number, three zeros, length big-endian."""
    return bytes((STREAM_NUMBERS[stream], 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def end_connection(sock: socket.socket) -> None:
    """Close a stream socket, for everybody who holds it, so that its peer reads the end of the stream.

    A socket that is closed with input unread resets the connection instead (unix(7), RFC 1122 4.2.2.13), and the docker
    client then fails although the program did not. So what is there is thrown away when nothing more can come.
    """
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
        for _ in range(_MOST_UNREAD // _CHUNK):  # TCP takes more after all
            if not sock.recv(_CHUNK, socket.MSG_DONTWAIT):
                break
    sock.close()


class Client:
    """One attached stream socket, non-blocking, owned."""

    def __init__(self, sock: socket.socket, target: AttachTarget) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.target = target
        self._framed = target.multiplexed
        self._keys = DetachKeys(bytes.fromhex(target.detach_keys))
        self._out = bytearray()
        self._preface = bytes.fromhex(target.preface)
        self._moved = time.monotonic()
        self.wants_input = target.stdin
        self.reading_ended = False
        self.detached = False
        self.broken = False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def offer(self, stream: str, data: bytes) -> None:
        """Queue output of the container and send what can be sent."""
        if self.broken or self.detached or not (self.target.stdout if stream == "stdout" else self.target.stderr):
            return
        if not self._out:
            self._moved = time.monotonic()
        self._out += frame(stream, data) if self._framed else data
        self.flush()

    @property
    def full(self) -> bool:
        """Whether the container's output has to wait for this client."""
        return len(self._out) >= BUFFER_LIMIT and not self.broken and not self.detached

    @property
    def excess(self) -> bool:
        """Whether even what an ended program left in its pipes is too much for this client now."""
        return len(self._out) >= EXCESS_LIMIT and not self.broken

    def patience(self) -> float:
        """Return for how many seconds more this client may hold the container up; negative: it is stuck."""
        return self._moved + STUCK_SECONDS - time.monotonic()

    @property
    def pending(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._out) and not self.broken

    def flush(self) -> None:
        """Send what the socket takes."""
        while self._out:
            try:
                sent = self.socket.send(memoryview(self._out)[:_CHUNK], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.broken = True
                return
            del self._out[:sent]
            self._moved = time.monotonic()

    def read(self) -> bytes:
        """Return input for the container; sets ``reading_ended``, ``detached`` or ``broken``."""
        if self._preface:
            data, self._preface = self._preface, b""
        else:
            try:
                data = self.socket.recv(_CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return b""
            except OSError:
                self.broken = self.reading_ended = True
                return b""
            if not data:
                self.reading_ended = True
                return b""
        passed, self.detached = self._keys.feed(data)
        return passed if self.wants_input else b""

    @property
    def has_preface(self) -> bool:
        """Whether :meth:`read` has something without waiting for the socket."""
        return bool(self._preface)

    def close(self) -> None:
        """Close the connection: the client sees the end of the stream."""
        end_connection(self.socket)
