"""However the bytes of a response are cut, the parser's events say the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.client.http1 import Data, End, Head, ProtocolError, ResponseParser, Upgraded, encode_head
from orlop.client.stdcopy import Demultiplexer

bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


def parse(data: bytes, cuts: list[int], *, method: str = "GET", raw: bool = False, close: bool = False):
    parser = ResponseParser(method, raw=raw)
    events = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if start != end:
            events += parser.feed(data[start:end])
    if close:
        events += parser.end_of_stream()
    body = b"".join(event.data for event in events if isinstance(event, Data))
    rest = b"".join(event.rest for event in events if isinstance(event, Upgraded))
    heads = [(event.status, event.headers) for event in events if isinstance(event, Head)]
    ends = [event.reusable for event in events if isinstance(event, End)]
    return heads, body, rest, ends, parser.done


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(bodies, cuts, st.sampled_from([b"", b"Trailer: x\r\n"]), st.sampled_from([b"", b";ext=1"]))
def test_chunked(pieces, at, trailer, extension) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
    wire = head + b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n" + trailer
    heads, body, _, ends, done = parse(wire + b"\r\n", at)
    assert heads == [(200, {"transfer-encoding": "chunked", "x": "y"})]
    assert (body, ends, done) == (b"".join(pieces), [True], True)


@given(st.binary(max_size=100), cuts, st.booleans())
def test_content_length(content, at, keep) -> None:
    connection = b"" if keep else b"Connection: close\r\n"
    wire = b"HTTP/1.1 404 Not Found\r\n%bContent-Length: %d\r\n\r\n%b" % (connection, len(content), content)
    heads, body, _, ends, done = parse(wire, at)
    assert heads[0][0] == 404
    assert (body, ends, done) == (content, [keep], True)


@given(st.binary(max_size=100), cuts, st.sampled_from([b"101 UPGRADED", b"200 OK"]))
def test_upgrade(content, at, status) -> None:
    wire = b"HTTP/1.1 %b\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n%b" % (status, content)
    heads, body, rest, ends, done = parse(wire, at, raw=True)
    assert len(heads) == 1
    assert (body, rest, ends, done) == (b"", content, [], True)


@given(st.binary(max_size=100), cuts)
def test_until_close(content, at) -> None:
    _, body, _, ends, done = parse(b"HTTP/1.1 200 OK\r\n\r\n" + content, at, close=True)
    assert (body, ends, done) == (content, [False], True)


@given(cuts)
def test_head_and_no_content_have_no_body(at) -> None:
    wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert parse(wire, at, method="HEAD")[3:] == ([True], True)
    assert parse(b"HTTP/1.1 204 No Content\r\n\r\n", at)[3:] == ([True], True)


@given(st.binary(max_size=200), cuts)
def test_hostile_bytes_are_refused_or_understood(data, at) -> None:
    try:
        parse(data, at, close=True)
        parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data, at, close=True)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
    ],
)
def test_malformed(wire) -> None:
    with pytest.raises(ProtocolError):
        parse(wire, [])


def test_cut_short() -> None:
    with pytest.raises(ProtocolError, match="EOF"):
        parse(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", [], close=True)


def test_a_header_cannot_be_forged() -> None:
    for target, value in (("/x\r\nEvil: 1", "y"), ("/x", "y\r\nEvil: 1"), ("/x y", "z"), ("/x", "a\x00")):
        with pytest.raises(ProtocolError):
            encode_head("GET", target, [("X", value)])


frames = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=6)


@given(frames, cuts)
def test_stdcopy(pairs, at) -> None:
    wire = b"".join(bytes([number, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for number, data in pairs)
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in at), len(wire)]
    demultiplexer = Demultiplexer()
    out = {1: b"", 2: b""}
    for start, end in pairwise(edges):
        for number, data in demultiplexer.feed(wire[start:end]):
            out[number] += data
    assert not demultiplexer.mid_frame
    assert out == {wanted: b"".join(data for number, data in pairs if number == wanted) for wanted in (1, 2)}
