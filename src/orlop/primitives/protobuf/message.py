"""Messages of Protocol Buffers (proto3), declared as classes.

::

    class Progress(Message):
        id: str = text(1)
        current: int = integer(4)
        started: Timestamp | None = nested(6, Timestamp)
        labels: dict[str, str] = texts_by_name(8)

    Progress(id="x").encode();  Progress.decode(data)

A field that is not there has proto3's default, unknown ones are skipped. What a peer sends is hostile: at most
:data:`MOST_FIELDS` fields are read from one message and what is nested in it, maps' entries among them, since two bytes
of a peer's can be an object of ours and nobody else is served meanwhile; the classes bound how deep messages nest.
"""

from __future__ import annotations

import struct

from orlop.errors import InvalidParameterError
from orlop.primitives.protobuf.wire import BYTES, FIXED64, VARINT, prefixed, read, signed, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Self, TypeVar, cast, dataclass_transform

    M = TypeVar("M", bound="Message")
else:

    def cast(_kind: object, value: object) -> object:
        """Return the value: typing costs too much where the runtime starts."""
        return value

    def dataclass_transform(**_: object) -> object:
        """Return a decorator that does nothing."""
        return lambda decorated: decorated


MOST_FIELDS = 20_000  # which take a hundredth of a second
_FIELD_BYTES, _MESSAGE_BYTES = 72, 320  # of objects that hold a field's value, or a message's fields
_INTEGER, _BOOLEAN, _DOUBLE, _TEXT, _DATA, _MESSAGE = range(6)
_DOUBLE_BYTES = struct.Struct("<d")


class _Field:
    """One declared field: its number and kind, whether it repeats or is a map from texts, and a message's class."""

    __slots__ = ("kind", "mapped", "model", "number", "repeated")

    def __init__(
        self,
        number: int,
        kind: int,
        *,
        repeated: bool = False,
        mapped: bool = False,
        model: type[Message] | None = None,
    ) -> None:
        self.number = number
        self.kind = kind
        self.repeated = repeated
        self.mapped = mapped
        self.model = model

    @property
    def has_many(self) -> bool:
        """Whether it holds several values."""
        return self.repeated or self.mapped

    def default(self) -> object:
        """Make what the field is when it was not given."""
        if self.mapped:
            return {}
        if self.repeated:
            return []
        return (0, False, 0.0, "", b"", None)[self.kind]

    def write(self, value: object) -> bytes:
        """Return the field with its tag; nothing for a default."""
        if self.mapped:
            entries = cast("dict[str, object]", value)
            return b"".join(
                prefixed(self.number, prefixed(1, key.encode()) + self._write_one(2, entry))
                for key, entry in entries.items()
            )
        if self.repeated:
            return b"".join(self._write_one(self.number, one) for one in cast("list[object]", value))
        return b"" if value is None or (not value and self.kind != _MESSAGE) else self._write_one(self.number, value)

    def _write_one(self, number: int, value: object) -> bytes:
        if self.kind in (_INTEGER, _BOOLEAN):
            return varint(number << 3 | VARINT) + varint(int(cast("int", value)))
        if self.kind == _DOUBLE:
            return varint(number << 3 | FIXED64) + _DOUBLE_BYTES.pack(cast("float", value))
        if self.kind == _TEXT:
            return prefixed(number, cast("str", value).encode())
        return prefixed(number, cast("bytes", value) if self.kind == _DATA else cast("Message", value).encode())

    def read(self, kind: int, value: int | bytes, budget: list[int]) -> object:
        """Return what a value of the wire stands for. Raises InvalidParameterError: another type of the wire."""
        if isinstance(value, int):
            if self.kind == _INTEGER:
                return signed(value)
            if self.kind == _BOOLEAN:
                return bool(value)
        elif self.kind == _DOUBLE and kind == FIXED64:
            return _DOUBLE_BYTES.unpack(value)[0]
        elif kind == BYTES:
            if self.kind == _TEXT:
                return _text(value, budget)
            if self.kind == _DATA:
                return value
            if self.kind == _MESSAGE and self.model is not None:
                return self.model._read(value, budget)  # noqa: SLF001 - one mechanism in two classes
        raise InvalidParameterError(f"malformed message: field {self.number} has wire type {kind}")

    def read_entry(self, value: int | bytes, budget: list[int]) -> tuple[str, object]:
        """Return the name and the value of one entry of a map."""
        if isinstance(value, int):
            raise InvalidParameterError(f"malformed message: field {self.number} has wire type 0")
        name, entry = "", None
        for number, kind, part in read(value):
            _spend(budget)
            if number == 1 and isinstance(part, bytes):
                name = _text(part, budget)
            elif number == 2:
                entry = self.read(kind, part, budget)
        if entry is None:
            entry = self.model() if self.model is not None else _Field(2, self.kind).default()
        return name, entry


def _spend(budget: list[int]) -> None:
    """Count a field. Raises InvalidParameterError: there were too many."""
    budget[0] -= 1
    if budget[0] < 0:
        raise InvalidParameterError(f"malformed message: more than {MOST_FIELDS} fields")


def _text(data: bytes, budget: list[int]) -> str:
    if not data.isascii():
        budget[1] += len(data) * 3  # each character has as many bytes as the widest one
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidParameterError("malformed message: a text is not UTF-8") from None


@dataclass_transform(kw_only_default=True)
class Message:
    """Base of declared messages. Its fields are attributes; two with the same ones are equal."""

    _fields: ClassVar[dict[str, _Field]] = {}
    _by_number: ClassVar[dict[int, tuple[str, _Field]]] = {}
    _many: ClassVar[tuple[tuple[str, type], ...]] = ()  # fields that hold several, each message's its own

    def __init_subclass__(cls) -> None:
        """Take the declarations, and have the defaults in their place."""
        cls._fields = {name: field for name, field in vars(cls).items() if isinstance(field, _Field)}
        cls._by_number = {field.number: (name, field) for name, field in cls._fields.items()}
        cls._many = tuple((name, type(field.default())) for name, field in cls._fields.items() if field.has_many)
        for name, field in cls._fields.items():
            if field.has_many:
                delattr(cls, name)
            else:
                setattr(cls, name, field.default())

    def __init__(self, **values: object) -> None:
        for name, kind in self._many:
            setattr(self, name, kind())
        for name, value in values.items():
            if name not in self._fields:
                raise TypeError(f"unknown field: {name}")
            setattr(self, name, value)

    def encode(self) -> bytes:
        """Return the message as the wire has it."""
        return b"".join(field.write(getattr(self, name)) for name, field in self._fields.items())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a message. Raises InvalidParameterError: it is none, or holds too much."""
        return cls._read(data, [MOST_FIELDS, 0])

    @classmethod
    def measured(cls, data: bytes) -> tuple[Self, int]:
        """Read a message as :meth:`decode` does; returns also how many bytes it takes here, or somewhat fewer."""
        budget = [MOST_FIELDS, 0]
        message = cls._read(data, budget)
        return message, len(data) + budget[1] + (MOST_FIELDS - budget[0]) * _FIELD_BYTES

    @classmethod
    def _read(cls, data: bytes, budget: list[int]) -> Self:
        """Read a message; ``budget`` is how many fields may come yet, and what is made beyond them and the data."""
        message, fields = cls(), cls._by_number
        budget[1] += _MESSAGE_BYTES
        for number, kind, value in read(data):
            _spend(budget)
            if number not in fields:
                continue
            name, field = fields[number]
            if field.mapped:
                key, entry = field.read_entry(value, budget)
                getattr(message, name)[key] = entry
            elif field.repeated:
                getattr(message, name).append(field.read(kind, value, budget))
            else:
                setattr(message, name, field.read(kind, value, budget))
        return message

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, name) == getattr(other, name) for name in self._fields)

    __hash__ = None  # type: ignore[assignment] # it can be changed

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields if getattr(self, name))
        return f"{type(self).__name__}({told})"


def integer(number: int) -> int:
    """Declare an int32, int64 or enumeration; unsigned ones up to 2^63 - 1."""
    return cast("int", _Field(number, _INTEGER))


def boolean(number: int) -> bool:
    """Declare a bool."""
    return cast("bool", _Field(number, _BOOLEAN))


def double(number: int) -> float:
    """Declare a double."""
    return cast("float", _Field(number, _DOUBLE))


def text(number: int) -> str:
    """Declare a string."""
    return cast("str", _Field(number, _TEXT))


def texts(number: int) -> list[str]:
    """Declare a repeated string."""
    return cast("list[str]", _Field(number, _TEXT, repeated=True))


def texts_by_name(number: int) -> dict[str, str]:
    """Declare a map from strings to strings."""
    return cast("dict[str, str]", _Field(number, _TEXT, mapped=True))


def blob(number: int) -> bytes:
    """Declare bytes."""
    return cast("bytes", _Field(number, _DATA))


def blobs(number: int) -> list[bytes]:
    """Declare repeated bytes."""
    return cast("list[bytes]", _Field(number, _DATA, repeated=True))


def blobs_by_name(number: int) -> dict[str, bytes]:
    """Declare a map from strings to bytes."""
    return cast("dict[str, bytes]", _Field(number, _DATA, mapped=True))


def nested(number: int, model: type[M]) -> M | None:
    """Declare a message in the message."""
    return cast("M | None", _Field(number, _MESSAGE, model=model))


def nesteds(number: int, model: type[M]) -> list[M]:
    """Declare a repeated message."""
    return cast("list[M]", _Field(number, _MESSAGE, repeated=True, model=model))


def nesteds_by_name(number: int, model: type[M]) -> dict[str, M]:
    """Declare a map from strings to messages."""
    return cast("dict[str, M]", _Field(number, _MESSAGE, mapped=True, model=model))
