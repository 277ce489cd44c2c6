"""Messages as bytes; jeepney is the oracle in both directions."""

from __future__ import annotations

import jeepney
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import SystemFailureError
from orlop.runtime.cgroups.systemd import wire
from orlop.runtime.cgroups.systemd.wire import CALL, ERROR, Message, decode, encode

START = Message(
    CALL,
    7,
    path="/org/freedesktop/systemd1",
    interface="org.freedesktop.systemd1.Manager",
    member="StartTransientUnit",
    destination="org.freedesktop.systemd1",
    signature="ssa(sv)a(sa(sv))",
    body=(
        "a.scope",
        "fail",
        (
            ("PIDs", ("au", (1, 2))),
            ("Delegate", ("b", 1)),
            ("MemoryMax", ("t", 2**64 - 1)),
            ("AllowedCPUs", ("ay", b"\x03")),
        ),
        (),
    ),
)


def plain(value):
    """jeepney has lists and dictionaries where we have tuples."""
    return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else value


def test_jeepney_reads_what_we_write():
    parser = jeepney.Parser()
    parser.add_data(encode(START))
    message = parser.get_next_message()
    assert message.header.fields[jeepney.HeaderFields.member] == "StartTransientUnit"
    assert message.header.serial == 7
    assert plain(message.body) == START.body


def test_we_read_what_jeepney_writes():
    address = jeepney.DBusAddress(START.path, START.destination, START.interface)
    unit, mode, properties, auxiliary = START.body
    properties = [(name, (kind, list(value) if kind == "au" else value)) for name, (kind, value) in properties]
    call = jeepney.new_method_call(address, START.member, START.signature, (unit, mode, properties, list(auxiliary)))
    call.header.serial = 7
    assert decode(call.serialise()) == START
    reply = jeepney.new_method_return(call, "a{sv}x", ({"a": ("s", "b")}, -5))
    assert decode(reply.serialise(serial=1)).body == ((("a", ("s", "b")),), -5)
    error = decode(jeepney.new_error(call, "x.y.Z", "s", ("bad",)).serialise(serial=2))
    assert (error.kind, error.error, error.body) == (ERROR, "x.y.Z", ("bad",))


@given(st.binary(max_size=120), st.integers(0, 100))
def test_damage_is_told(junk, place):
    good = encode(START)
    for data in (junk, good[:place] + junk + good[place + len(junk) :], good[:place]):
        try:
            decode(data)
        except SystemFailureError:
            continue


def test_length_is_bounded():
    head = encode(START)[:4] + (1 << 30).to_bytes(4, "little") + encode(START)[8:16]
    with pytest.raises(SystemFailureError, match="too long"):
        wire.size(head)
    assert wire.size(encode(START)[:16]) == len(encode(START))


@pytest.mark.parametrize("signature", ["(s", "a", "a{sv", "a()", "(" * 40])
def test_signatures(signature):
    with pytest.raises(SystemFailureError, match="invalid D-Bus signature"):
        wire.types(signature)
