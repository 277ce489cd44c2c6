"""Tests of orlop.spec.cpuset."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.spec.cpuset import format_cpuset, parse_cpuset


@given(st.frozensets(st.integers(0, 8191), max_size=200))
def test_format_is_the_inverse_of_parse(numbers):
    assert parse_cpuset(format_cpuset(numbers)) == numbers


@pytest.mark.parametrize(
    "text", ["0-2147483647", "-1", "1-", "3-1", "a", "0,,1", "1 2", "9999", "\u0661", "0-1-2", ",", "9" * 5000]
)
def test_refused(text):
    with pytest.raises(InvalidParameterError):
        parse_cpuset(text)


def test_empty_is_none():
    assert parse_cpuset("") == frozenset()


def test_maximum():
    assert parse_cpuset("0-1", maximum=1) == {0, 1}
    with pytest.raises(InvalidParameterError, match="maximum is 1"):
        parse_cpuset("2", maximum=1)
