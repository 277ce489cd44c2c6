"""Protocol Buffers' wire format: integers, texts, bytes and nested messages.

https://protobuf.dev/programming-guides/encoding/: a field is a tag (number and wire type) and a value; wire type 0 is a
varint, 1 and 5 are eight and four bytes, 2 is a length and bytes. Groups (3 and 4) are of no use to anybody here.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    Value: TypeAlias = "int | str | bytes | Sequence[tuple[int, Value]]"
    Fields: TypeAlias = "Sequence[tuple[int, Value]]"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MASK = 2**64 - 1


def encode(fields: Fields) -> bytes:
    """Return a message; a field that repeats is given several times, a nested message as its fields."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3 | VARINT) + varint(value))
        elif isinstance(value, bytes):
            parts.append(prefixed(number, value))
        else:
            data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else encode(value)
            parts.append(prefixed(number, data))
    return b"".join(parts)


def decode(data: bytes) -> dict[int, int | bytes]:
    """Return a message's fields by number, the last of each. Raises InvalidParameterError: it is none."""
    return {number: value for number, _, value in read(data)}


def read(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield a message's fields: number, wire type, and value. Raises InvalidParameterError: it is none."""
    place, end = 0, len(data)
    while place < end:
        tag = data[place]
        if tag < 0x80:  # as nearly all are
            place += 1
        else:
            tag, place = read_varint(data, place)
        kind = tag & 7
        if not tag >> 3:
            raise InvalidParameterError("malformed message: field 0")
        if kind == VARINT:
            value, place = read_varint(data, place)
            yield tag >> 3, kind, value
            continue
        if kind == BYTES:
            length, place = read_varint(data, place)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise InvalidParameterError(f"malformed message: wire type {kind}")
        if place + length > end:
            raise InvalidParameterError("malformed message: it is cut off")
        yield tag >> 3, kind, data[place : place + length]
        place += length


def prefixed(number: int, data: bytes) -> bytes:
    """Return a field of bytes."""
    return varint(number << 3 | BYTES) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Write an integer; a negative one as its two's complement of 64 bits."""
    if 0 <= value <= 0x7F:
        return bytes((value,))
    value &= _MASK
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the integer at a place, without a sign, and the place after it. Raises InvalidParameterError."""
    if place < len(data) and data[place] < 0x80:
        return data[place], place + 1
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & _MASK, place
        shift += 7
    raise InvalidParameterError("malformed message: it is cut off")


def signed(value: int) -> int:
    """Return what an integer of 64 bits is when it has a sign."""
    return value - 2**64 if value >= 2**63 else value
