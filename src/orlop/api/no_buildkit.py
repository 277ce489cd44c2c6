"""What a client that speaks BuildKit's protocol is told: gRPC's answer to any call, with the way out in its words.

A refusal by HTTP would not be shown: buildx takes it for an engine without a builder, pulls BuildKit and runs it, and
the image that it builds is not in this engine. So the upgrade is granted, and every call that comes is refused.

Sans-I/O but for :func:`serve`. Source: RFC 9113 (HTTP/2 frames), RFC 7541 (headers; none has to be read), gRPC's
"PROTOCOL-HTTP2.md" (an answer of trailers only).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd

MESSAGE = (
    "this engine builds by itself and does not speak BuildKit's protocol; set DOCKER_BUILDKIT=0 for docker build and"
    " docker compose build, or use orlop build"
)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">IBI")  # length and type in one number, flags, stream
_HEADERS, _SETTINGS, _PING, _GOAWAY = 1, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_LONGEST = 16_384  # of a frame, which no setting of ours allows to be longer
_FAILED_PRECONDITION = "9"  # of gRPC's codes: what is not tried again, and not taken for a method that is missing
_SECONDS = 60.0


class Refusal:
    """One connection."""

    def __init__(self) -> None:
        self._held = b""
        self._greeted = False
        self.over = False  # the client has gone away, or speaks something else

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent, and return the answer to it."""
        self._held += data
        out = b""
        if not self._greeted:
            if len(self._held) < len(_PREFACE) and _PREFACE.startswith(self._held):
                return b""
            if not self._held.startswith(_PREFACE):
                self.over = True
                return b""
            self._held = self._held[len(_PREFACE) :]
            self._greeted = True
            out = _frame(_SETTINGS, 0, 0, b"")
        while not self.over and len(self._held) >= _HEAD.size:
            kind, flags, stream = _HEAD.unpack_from(self._held)
            length, kind = kind >> 8, kind & 0xFF
            if length > _LONGEST:
                self.over = True
            if self.over or len(self._held) < _HEAD.size + length:
                break
            payload = self._held[_HEAD.size : _HEAD.size + length]
            self._held = self._held[_HEAD.size + length :]
            out += self._answer(kind, flags, stream, payload)
        return out

    def _answer(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _HEADERS:
            return _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _TRAILERS)
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        self.over = kind == _GOAWAY
        return b""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """Write a string of a header: its length with a prefix of seven bits, and no Huffman code."""
    length, head = len(value), b""
    if length >= 0x7F:
        head, length = b"\x7f", length - 0x7F
        while length >= 0x80:
            head, length = head + bytes((length & 0x7F | 0x80,)), length >> 7
    return head + bytes((length,)) + value.encode("ascii")


# ":status: 200" is entry 8 of the static table; the others are literals that nobody keeps.
_TRAILERS = b"\x88" + b"".join(
    b"\0" + _text(name) + _text(value)
    for name, value in (
        ("content-type", "application/grpc"),
        ("grpc-status", _FAILED_PRECONDITION),
        ("grpc-message", MESSAGE),
    )
)


async def serve(connection: OwnedFd, preface: bytes) -> None:
    """Answer on this stream socket, which is taken over, until the client leaves; at most for a minute."""
    sock = socket.socket(fileno=connection.release())
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock)
    refusal = Refusal()
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                data = preface
                while not refusal.over:
                    writer.write(refusal.receive(data))
                    await writer.drain()
                    data = await reader.read(_LONGEST)
                    refusal.over = refusal.over or not data
    finally:
        writer.close()
