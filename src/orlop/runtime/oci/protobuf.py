"""As much of Protocol Buffers' wire format as criu's RPC needs: integers, texts and nested messages.

https://protobuf.dev/programming-guides/encoding/: a field is a tag (number and wire type) and a value; wire type 0 is a
varint, 2 a length and bytes.
"""

from __future__ import annotations

from orlop.errors import SystemFailureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Value: TypeAlias = "int | str | Sequence[tuple[int, Value]]"
    Fields: TypeAlias = "Sequence[tuple[int, Value]]"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode(fields: Fields) -> bytes:
    """Return a message; a field that repeats is given several times, a nested message as its fields."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(_varint(number << 3 | _VARINT) + _varint(value & 2**64 - 1))
        else:
            data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else encode(value)
            parts.append(_varint(number << 3 | _BYTES) + _varint(len(data)) + data)
    return b"".join(parts)


def decode(data: bytes) -> dict[int, int | bytes]:
    """Return a message's fields by number, the last of each. Raises SystemFailureError: it is none."""
    fields: dict[int, int | bytes] = {}
    place = 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        kind = tag & 7
        if kind == _VARINT:
            fields[tag >> 3], place = _read_varint(data, place)
            continue
        if kind == _BYTES:
            length, place = _read_varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise SystemFailureError(f"malformed message: wire type {kind}")
        if place + length > len(data):
            raise SystemFailureError("malformed message: it is cut off")
        fields[tag >> 3] = data[place : place + length]
        place += length
    return fields


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7
    raise SystemFailureError("malformed message: it is cut off")
