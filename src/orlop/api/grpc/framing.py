"""Messages in a stream of bytes: a flag, a length (big endian), that many bytes. Sans-I/O.

Source: grpc "PROTOCOL-HTTP2.md", Length-Prefixed-Message.
"""

from __future__ import annotations

import struct

from orlop.errors import InvalidParameterError

_HEAD = struct.Struct(">BI")
MESSAGE_LIMIT = 16 << 20  # bytes, as BuildKit has it


def frame(message: bytes) -> bytes:
    """Return a message as it travels."""
    return _HEAD.pack(0, len(message)) + message


class MessageReader:
    """Takes bytes as they come, and gives messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def held(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._held)

    @property
    def expected(self) -> int:
        """Bytes of that message when it is whole, as far as it says so; 0 when nothing of one is here."""
        if len(self._held) < _HEAD.size:
            return len(self._held)
        return _HEAD.size + int(_HEAD.unpack_from(self._held)[1])

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; returns the messages that are whole now.

        Raises:
            InvalidParameterError: a message is compressed, which nobody was told to do, or longer than the limit.
        """
        held = self._held
        held += data
        messages = []
        place = 0
        while len(held) - place >= _HEAD.size:
            flag, length = _HEAD.unpack_from(held, place)
            if flag:
                raise InvalidParameterError(f"unexpected compression of a message: flag {flag}")
            if length > MESSAGE_LIMIT:
                raise InvalidParameterError(f"message larger than max ({length} vs. {MESSAGE_LIMIT})")
            if len(held) - place - _HEAD.size < length:
                break
            with memoryview(held) as view:
                messages.append(bytes(view[place + _HEAD.size : place + _HEAD.size + length]))
            place += _HEAD.size + length
        del held[:place]
        return messages
