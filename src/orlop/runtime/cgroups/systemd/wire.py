"""D-Bus messages as bytes and back (D-Bus Specification, "Marshaling", "Message Format"); nothing here is a socket.

Only what systemd's manager is asked and answers: no descriptors, no doubles. Why it is ours: docs/adr/0006.
"""

from __future__ import annotations

import struct

from orlop.errors import SystemFailureError
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # an array of bytes is bytes; a variant is its signature and its value
    Value = bool | int | str | bytes | Sequence["Value"]

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
# far above what systemd says to us; the protocol's own bound is 128 MiB
MAXIMUM = 1 << 20
_DEPTH = 16
_NUMBERS = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "(": 8, "{": 8}
_CLOSING = {"(": ")", "{": "}"}
# header fields, by code: name, signature
_FIELDS = {1: ("path", "o"), 2: ("interface", "s"), 3: ("member", "s"), 4: ("error", "s"), 5: ("reply_to", "u")}
_FIELDS |= {6: ("destination", "s"), 7: ("sender", "s"), 8: ("signature", "g")}
_CODES = {name: (code, signature) for code, (name, signature) in _FIELDS.items()}
FIXED = 16


@dataclass(frozen=True)
class Message:
    """One message; header fields that it does not have are empty.

    Attributes:
        kind: CALL, RETURN, ERROR or SIGNAL.
        serial: the sender's number of it.
        reply_to: the serial that it answers, 0 for none.
        signature: of the body.
        body: its values.
    """

    kind: int
    serial: int
    path: str = ""
    interface: str = ""
    member: str = ""
    error: str = ""
    reply_to: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    body: tuple[Value, ...] = field(default_factory=tuple)


def types(signature: str) -> list[str]:
    """Split a signature into its complete types. Raises SystemFailureError: it is none."""
    found = []
    start = 0
    while start < len(signature):
        end = _end(signature, start, 0)
        found.append(signature[start:end])
        start = end
    return found


def _end(signature: str, start: int, depth: int) -> int:
    if start >= len(signature) or depth > _DEPTH:
        raise SystemFailureError(f"invalid D-Bus signature: {signature:.80}")
    first = signature[start]
    if first == "a":
        return _end(signature, start + 1, depth + 1)
    if first not in _CLOSING:
        return start + 1
    position = start + 1
    if signature[position : position + 1] == _CLOSING[first]:  # an array of nothing would never end
        raise SystemFailureError(f"invalid D-Bus signature: {signature:.80}")
    while signature[position : position + 1] != _CLOSING[first]:
        position = _end(signature, position, depth + 1)
    return position + 1


class Writer:
    """Bytes that grow; alignment counts from their beginning."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        """Pad with zeros."""
        self.data.extend(bytes(-len(self.data) % size))

    def put(self, signature: str, value: Value) -> None:
        """Append one value of one complete type."""
        kind = signature[0]
        self.align(_ALIGNMENT.get(kind, 4))
        if kind in _NUMBERS:
            self.data.extend(struct.pack("<" + _NUMBERS[kind], value))
        elif kind in "sog":
            text = str(value).encode()
            self.data.extend(struct.pack("<B" if kind == "g" else "<I", len(text)) + text + b"\0")
        elif kind == "v":
            inner, content = value  # type: ignore[misc, str-unpack]
            self.put("g", inner)
            self.put(str(inner), content)
        elif kind == "a":
            self._array(signature[1:], value)
        else:
            for inner, content in zip(types(signature[1:-1]), value, strict=True):  # type: ignore[arg-type]
                self.put(inner, content)

    def _array(self, inner: str, items: Value) -> None:
        place = len(self.data)
        self.data.extend(bytes(4))
        self.align(_ALIGNMENT.get(inner[0], 4))
        start = len(self.data)
        if isinstance(items, bytes):
            self.data.extend(items)
        else:
            for item in items:  # type: ignore[union-attr]
                self.put(inner, item)
        struct.pack_into("<I", self.data, place, len(self.data) - start)


class Reader:
    """Bytes that are read once, from the front; ``order`` is ``<`` or ``>``."""

    def __init__(self, data: bytes, order: str, position: int = 0) -> None:
        self._data = data
        self._order = order
        self.position = position

    def align(self, size: int) -> None:
        """Skip padding."""
        self.position += -self.position % size

    def take(self, signature: str, depth: int = 0) -> Value:
        """Return one value of one complete type. Raises SystemFailureError, struct.error: malformed."""
        if depth > _DEPTH:
            raise SystemFailureError("D-Bus message is nested too deeply")
        kind = signature[0]
        self.align(_ALIGNMENT.get(kind, 4))
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind in "sog":
            text = self._bytes(self._number("B" if kind == "g" else "I") + 1)
            return text[:-1].decode("utf-8", "replace")
        if kind == "v":
            inner = str(self.take("g"))
            if len(types(inner)) != 1:
                raise SystemFailureError(f"invalid D-Bus variant: {inner:.80}")
            return inner, self.take(inner, depth + 1)
        if kind == "a":
            return self._array(signature[1:], depth)
        if kind in _CLOSING:
            return tuple(self.take(inner, depth + 1) for inner in types(signature[1:-1]))
        raise SystemFailureError(f"unknown D-Bus type: {kind!r}")

    def _array(self, inner: str, depth: int) -> Value:
        length = self._number("I")
        self.align(_ALIGNMENT.get(inner[0], 4))
        if inner == "y":
            return self._bytes(length)
        end = self.position + length
        items = []
        while self.position < end:
            items.append(self.take(inner, depth + 1))
        return tuple(items)

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(self._order + form, self._data, self.position)
        self.position += struct.calcsize(form)
        return int(value)

    def _bytes(self, length: int) -> bytes:
        if not 0 <= length <= len(self._data) - self.position:
            raise SystemFailureError("D-Bus message ends early")
        self.position += length
        return self._data[self.position - length : self.position]


def encode(message: Message) -> bytes:
    """Return a message's bytes."""
    body = Writer()
    for signature, value in zip(types(message.signature), message.body, strict=True):
        body.put(signature, value)
    fields = [
        (code, (signature, getattr(message, name)))
        for name, (code, signature) in _CODES.items()
        if getattr(message, name)
    ]
    head = Writer()
    for signature, value in zip("yyyyuu", (ord("l"), message.kind, 0, 1, len(body.data), message.serial), strict=True):
        head.put(signature, value)
    head.put("a(yv)", fields)
    head.align(8)
    return bytes(head.data + body.data)


def size(start: bytes) -> int:
    """Return the whole length of the message that starts with these 16 bytes. Raises SystemFailureError."""
    order = _order(start)
    body, _, fields = struct.unpack_from(order + "III", start, 4)
    whole = FIXED + fields + -fields % 8 + body
    if whole > MAXIMUM:
        raise SystemFailureError(f"D-Bus message is too long: {whole} bytes")
    return int(whole)


def decode(data: bytes) -> Message:
    """Read one whole message. Raises SystemFailureError: it is malformed."""
    order = _order(data)
    try:
        reader = Reader(data, order)
        _, kind, _, version, _, serial = (reader.take(signature) for signature in "yyyyuu")
        if version != 1 or kind not in (CALL, RETURN, ERROR, SIGNAL):
            raise SystemFailureError("not a D-Bus message")
        found: dict[str, Value] = {}
        for item in reader.take("a(yv)"):  # type: ignore[union-attr]
            code, (signature, value) = item  # type: ignore[misc, str-unpack]
            name, expected = _FIELDS.get(code, ("", ""))  # type: ignore[arg-type]
            if name and signature == expected:
                found[name] = value
        reader.align(8)
        body = tuple(reader.take(signature) for signature in types(str(found.get("signature", ""))))
    except (struct.error, ValueError, TypeError) as error:
        raise SystemFailureError(f"malformed D-Bus message: {error}") from None
    return Message(kind, serial, body=body, **found)  # type: ignore[arg-type]


def _order(start: bytes) -> str:
    order = {b"l": "<", b"B": ">"}.get(start[:1])
    if order is None or len(start) < FIXED:
        raise SystemFailureError("not a D-Bus message")
    return order
