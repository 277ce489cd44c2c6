"""The DNS codec beside dnspython's, and against bytes that are none."""

from __future__ import annotations

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.network.dns import message

LABEL = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)


@given(NAME, st.sampled_from(["A", "AAAA", "PTR", "MX", "TXT"]), st.booleans(), st.integers(0, 5000))
def test_queries_are_read_as_dnspython_writes_them(name, kind, edns, payload):
    theirs = dns.message.make_query(name, kind, **({"use_edns": 0, "payload": payload} if edns else {}))
    mine = message.parse_query(theirs.to_wire())
    assert (mine.identity, mine.name, mine.klass) == (theirs.id, name.lower(), 1)
    assert mine.kind == theirs.question[0].rdtype
    assert mine.size == (min(max(payload, 512), 4096) if edns else 512)
    assert mine.wants_recursion


@given(NAME, st.lists(st.ip_addresses(v=4), min_size=1, max_size=20))
def test_answers_are_read_by_dnspython(name, addresses):
    query = dns.message.make_query(name, "A")
    mine = message.parse_query(query.to_wire())
    answer = message.build_answer(mine, [message.address_record(address, 600) for address in addresses])
    theirs = dns.message.from_wire(answer)
    assert query.is_response(theirs)
    if theirs.flags & dns.flags.TC:
        assert len(addresses) > 12
        assert not theirs.answer
        answer = message.build_answer(mine, [message.address_record(a, 600) for a in addresses], tcp=True)
        theirs = dns.message.from_wire(answer)
    assert {item.address for item in theirs.answer[0]} == {str(address) for address in addresses}
    assert theirs.answer[0].ttl == 600


def test_other_records():
    mine = message.parse_query(dns.message.make_query("web", "AAAA").to_wire())
    theirs = dns.message.from_wire(message.build_answer(mine, [message.address_record(ip_address("fd00::5"), 1)]))
    assert theirs.answer[0][0].address == "fd00::5"
    mine = message.parse_query(dns.message.make_query("5.0.0.10.in-addr.arpa", "PTR").to_wire())
    theirs = dns.message.from_wire(message.build_answer(mine, [message.pointer_record("web.n1", 1)]))
    assert theirs.answer[0][0].target.to_text() == "web.n1."
    refused = dns.message.from_wire(message.build_answer(mine, code=message.SERVER_FAILURE))
    assert refused.rcode() == dns.rcode.SERVFAIL


@given(st.binary(max_size=80))
def test_any_bytes_are_a_query_or_an_error(data):
    try:
        query = message.parse_query(data)
    except message.MessageError as error:
        assert error.reply == b"" or len(error.reply) == 12
    else:
        assert query.question == data[12 : 12 + len(query.question)]


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"", False),
        (b"\0" * 11, False),
        (bytes.fromhex("000180000001000000000000") + b"\1a\0\0\1\0\1", False),  # an answer
        (bytes.fromhex("000128000001000000000000") + b"\1a\0\0\1\0\1", True),  # an update
        (bytes.fromhex("000101000002000000000000") + b"\1a\0\0\1\0\1" * 2, True),
        (bytes.fromhex("000101000001000000000000") + b"\xc0\x0c\0\1\0\1", True),  # a pointer to itself
        (bytes.fromhex("000101000001000000000000") + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", True),
        (bytes.fromhex("000101000001000000000000") + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1", True),
        (bytes.fromhex("000101000001000000000000") + b"\3a", True),
        (bytes.fromhex("000101000001000000000000") + b"\3a.b\0\0\1\0\1", True),
    ],
)
def test_hostile_queries(data, reply):
    with pytest.raises(message.MessageError) as caught:
        message.parse_query(data)
    assert bool(caught.value.reply) == reply


def test_only_the_answer_to_the_question_counts():
    wire = dns.message.make_query("example.org", "A", id=7).to_wire()
    question = message.parse_query(wire).question
    good = dns.message.make_response(dns.message.from_wire(wire)).to_wire()
    assert message.answers(good, 7, question)
    assert message.answers(good.replace(b"example", b"eXAmple"), 7, question)
    assert not message.answers(good, 8, question)
    assert not message.answers(wire, 7, question)
    assert not message.answers(good.replace(b"example", b"exbmple"), 7, question)
    assert not message.answers(good[:11], 7, question)
    assert not message.answers(good[:20], 7, question)
