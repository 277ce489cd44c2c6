"""Wildcards of COPY: Go's filepath.Match on one name."""

import time

import pytest

from orlop.errors import InvalidParameterError
from orlop.primitives.wildcards import matches


@pytest.mark.parametrize(
    ("pattern", "name", "result"),
    [
        (b"*", b"abc", True), (b"a*c", b"abbc", True), (b"a*c", b"abcd", False), (b"?", b"", False), (b"a?", b"ab", True),
        (b"[a-c]x", b"bx", True), (b"[a-c]x", b"dx", False), (b"[^a]", b"b", True), (b"\\*", b"*", True),
        (b"\\*", b"a", False), (b"*.t*t", b"a.b.txt", True), (b"", b"", True), (b"**", b"a", True),
    ],
)  # fmt: skip
def test_matches(pattern, name, result):
    assert matches(pattern, name) is result


def test_malformed():
    with pytest.raises(InvalidParameterError, match="syntax error in pattern"):
        matches(b"[a", b"a")


def test_many_stars_cost_little():
    began = time.process_time()
    assert not matches(b"*a" * 100 + b"b", b"a" * 255)
    assert time.process_time() - began < 0.5
