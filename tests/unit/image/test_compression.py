import bz2
import gzip
import lzma
import tracemalloc
import zlib

import pytest

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.image.compression import PIECE, Compression, Decompressor, detect

TEXT = bytes(range(256)) * 20_000
COMPRESSORS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "none": bytes}


def run(data, step):
    decompressor = Decompressor()
    out = b""
    for start in range(0, len(data), step):
        out += b"".join(decompressor.feed(data[start : start + step]))
    return decompressor, out + b"".join(decompressor.finish())


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_round_trip_in_pieces(name, step):
    text = TEXT[:20_000] if step < 10 else TEXT
    decompressor, out = run(COMPRESSORS[name](text), step)
    assert (decompressor.compression.value, out) == (name, text)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_members_that_follow_each_other(name):
    compress = COMPRESSORS[name]
    assert run(compress(b"one") + compress(b"two") + bytes(512), 5)[1] == b"onetwo"


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_cut_short(name, keep):
    data = COMPRESSORS[name](TEXT)
    with pytest.raises(InvalidParameterError, match="unexpected EOF"):
        run(data[: int(len(data) * keep)], 1000)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_damaged(name):
    data = bytearray(COMPRESSORS[name](TEXT))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    with pytest.raises(InvalidParameterError):
        run(bytes(data), 1000)


def test_a_bomb_comes_in_bounded_pieces():
    bomb = gzip.compress(bytes(200 << 20))
    decompressor = Decompressor()
    tracemalloc.start()
    try:
        assert sum(len(piece) <= PIECE for piece in decompressor.feed(bomb)) >= 200
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_empty_and_tiny_streams():
    assert run(b"", 1)[1] == b""
    assert run(b"abc", 1)[1] == b"abc"


def test_zlib_without_header_is_not_gzip():
    assert detect(zlib.compress(b"x")) is Compression.NONE
    assert detect(b"\x28\xb5\x2f\xfd") is Compression.ZSTD
    assert detect(b"\x5e\x2a\x4d\x18") is Compression.ZSTD


def test_zstd_works_or_says_what_is_missing():
    try:
        zstd = pytest.importorskip("backports.zstd")
    except pytest.skip.Exception:
        with pytest.raises(UnsupportedError, match=r"backports\.zstd"):
            run(bytes.fromhex("28b52ffd") + bytes(20), 100)
    else:
        assert run(zstd.compress(TEXT), 1000)[1] == TEXT
