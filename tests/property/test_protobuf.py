"""Messages of Protocol Buffers: round trips, what is unknown is skipped, and bytes that are none are told so."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.primitives.protobuf import message, wire
from orlop.primitives.protobuf.message import Message


class Inner(Message):
    number: int = message.integer(1)
    name: str = message.text(2)


class Outer(Message):
    number: int = message.integer(1)
    flag: bool = message.boolean(2)
    share: float = message.double(3)
    name: str = message.text(4)
    data: bytes = message.blob(5)
    inner: Inner | None = message.nested(6, Inner)
    names: list[str] = message.texts(7)
    parts: list[bytes] = message.blobs(8)
    inners: list[Inner] = message.nesteds(9, Inner)
    texts: dict[str, str] = message.texts_by_name(10)
    blobs: dict[str, bytes] = message.blobs_by_name(11)
    trees: dict[str, Inner] = message.nesteds_by_name(200_000, Inner)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
INNERS = st.builds(Inner, number=INTEGERS, name=st.text())
OUTERS = {
    "number": INTEGERS,
    "flag": st.booleans(),
    "share": st.floats(allow_nan=False),
    "name": st.text(),
    "data": st.binary(),
    "inner": st.none() | INNERS,
    "names": st.lists(st.text(), max_size=3),
    "parts": st.lists(st.binary(), max_size=3),
    "inners": st.lists(INNERS, max_size=3),
    "texts": st.dictionaries(st.text(), st.text(), max_size=3),
    "blobs": st.dictionaries(st.text(), st.binary(), max_size=3),
    "trees": st.dictionaries(st.text(), INNERS, max_size=3),
}


@given(st.builds(Outer, **OUTERS))
def test_round_trip(value):
    assert Outer.decode(value.encode()) == value


@given(st.fixed_dictionaries(OUTERS), INTEGERS, st.lists(INNERS, max_size=3))
def test_unknown_fields_are_skipped(fields, other, more):
    newer = wire.encode([(12, other), (15, "x"), *((13, item.encode()) for item in more)]) + b"\x71" + bytes(8)
    assert Outer.decode(newer + Outer(**fields).encode()) == Outer(**fields)


@given(st.binary(max_size=200))
def test_hostile_bytes(data):
    try:
        again = Outer.decode(data)
    except InvalidParameterError as error:
        assert "malformed message" in str(error)
    else:
        assert repr(Outer.decode(again.encode())) == repr(again)


@given(st.builds(Outer, **OUTERS), st.data())
def test_cut_off(value, data):
    encoded = value.encode()
    for cut in {data.draw(st.integers(0, len(encoded)))}:
        try:
            Outer.decode(encoded[:cut])
        except InvalidParameterError:
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x4a\x00" * 20_001,
        b"\x4a\x04\x08\x00\x08\x00" * 10_000,
        b"\x78\x00" * 20_001,
        wire.prefixed(10, b"\x0a\x00" * 20_001),
        wire.prefixed(200_000, wire.prefixed(2, b"\x18\x00" * 20_001)),
    ],
    ids=["nested", "in nested", "unknown", "in an entry of a map", "in a message of a map"],
)
def test_a_message_of_too_many_fields(data):
    with pytest.raises(InvalidParameterError, match="more than 20000 fields"):
        Outer.decode(data)


def test_what_is_read_of_a_hostile_message_takes_no_time():
    """Sixteen megabytes in which each two bytes are a field: reading is over before others notice."""
    for data in (b"\x4a\x00" * (8 << 20), wire.prefixed(10, b"\x0a\x00" * (8 << 20))):
        began = time.process_time()
        with pytest.raises(InvalidParameterError):
            Outer.decode(data)
        assert time.process_time() - began < 1


@given(st.integers(0, 2**70), st.integers(0, 9))
def test_integers_that_are_longer_than_they_need_to_be(value, more):
    data = bytearray(wire.varint(value & (2**64 - 1)))
    data[-1] |= 0x80
    data += b"\x80" * more + b"\0"
    if len(data) > 10:
        with pytest.raises(InvalidParameterError):
            wire.read_varint(bytes(data), 0)
    else:
        assert wire.read_varint(bytes(data), 0) == (value & (2**64 - 1), len(data))


def test_another_type_of_the_wire():
    for data in (
        b"\x0a\x00",
        b"\x20\x01",
        b"\x32\x02\x08",
        b"\x22\x01\xff",
        b"\x19" + bytes(4),
        b"\x0b\x0c",
        b"\x02\x00",
    ):
        with pytest.raises(InvalidParameterError, match="malformed message"):
            Outer.decode(data)


def test_a_map_without_its_value_has_the_default():
    assert Outer.decode(wire.encode([(10, [(1, "a")]), (200_000, [(1, "b")])])) == Outer(
        texts={"a": ""}, trees={"b": Inner()}
    )


def test_defaults_are_not_sent():
    assert Outer().encode() == b""
    assert Outer(inner=Inner()).encode() == b"\x32\x00"


def test_an_unknown_field_is_a_mistake():
    with pytest.raises(TypeError, match="unknown field: nope"):
        Inner(nope=1)
