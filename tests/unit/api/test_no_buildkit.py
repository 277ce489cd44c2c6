"""What a client that speaks BuildKit's protocol is told: HTTP/2 frames in, gRPC's refusal out, byte by byte too."""

import struct

import pytest

from orlop.api.no_buildkit import MESSAGE, Refusal

HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 1, 3, 4, 6, 7
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def frames(data):
    while data:
        length = int.from_bytes(data[:3])
        kind, flags, stream = struct.unpack_from(">BBI", data, 3)
        yield kind, flags, stream, data[9 : 9 + length]
        data = data[9 + length :]


CALLS = HELLO + frame(SETTINGS) + frame(HEADERS, 4, 1, b"\x82") + frame(SETTINGS, 1) + frame(PING, 0, 0, b"12345678")
CALLS += frame(PING, 1, 0, b"87654321") + frame(RST_STREAM, 0, 1, b"\0\0\0\0") + frame(HEADERS, 4, 3, b"\x82")


@pytest.mark.parametrize("size", [1, 7, len(CALLS)])
def test_each_call_is_refused_in_words(size):
    refusal = Refusal()
    out = b"".join(refusal.receive(CALLS[at : at + size]) for at in range(0, len(CALLS), size))
    found = list(frames(out))
    assert [item[:3] for item in found] == [
        (SETTINGS, 0, 0), (SETTINGS, 1, 0), (HEADERS, 5, 1), (PING, 1, 0), (HEADERS, 5, 3)
    ]  # fmt: skip
    assert found[3][3] == b"12345678"
    trailers = found[2][3]
    assert trailers.startswith(
        b"\x88\0\x0ccontent-type\x10application/grpc\0\x0bgrpc-status\x019\0\x0cgrpc-message\x7f"
    )
    assert trailers.endswith(bytes((len(MESSAGE) - 127,)) + MESSAGE.encode())
    assert 127 + 0x80 > len(MESSAGE) > 127
    assert "DOCKER_BUILDKIT=0" in MESSAGE
    assert not refusal.over


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        HELLO[:-1] + b"x",
        HELLO + frame(GOAWAY, payload=bytes(8)),
        HELLO + b"\x00\x40\x01" + bytes(6),
    ],
    ids=["other protocol", "nearly", "going away", "long frame"],
)
def test_what_ends_it(data):
    refusal = Refusal()
    refusal.receive(data)
    assert refusal.over
    assert not refusal.receive(frame(HEADERS, 4, 1))
