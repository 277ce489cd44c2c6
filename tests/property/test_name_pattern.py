"""Patterns of filters say what Python's ``re`` says, and are never slow."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.spec.name_pattern import name_matches

ATOMS = st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", "[a-c_]", r"\d", r"\W", r"\.", "^", "$", "[]a]", "[b-]"])
QUANTIFIERS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "+?"])


def _combined(inner):
    repeated = st.tuples(inner, QUANTIFIERS).map(lambda pair: f"(?:{pair[0]}){pair[1]}")
    sequence = st.lists(repeated, max_size=3).map("".join)
    return st.one_of(sequence, st.lists(sequence, min_size=1, max_size=3).map("|".join).map("({})".format))


PATTERNS = st.recursive(ATOMS, _combined, max_leaves=8)


@given(PATTERNS, st.text(alphabet="ab-._1", max_size=8))
def test_same_as_re(pattern, text):
    # in Go, as here, $ is the very end
    expected = re.search(pattern.replace("$", r"\Z"), text) is not None
    assert name_matches(pattern, text) == (expected or pattern == text)


@given(st.text(alphabet=r"ab\[](){}|*+?^$.-,:0123dWs", max_size=20), st.text(alphabet="ab]", max_size=5))
def test_any_text_is_a_pattern_or_none(pattern, text):
    assert name_matches(pattern, text) in (True, False)


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("web", "my-web-1"),
        ("^/?web-[0-9]+$", "/web-12"),
        ("^(db|cache)$", "cache"),
        (".*", ""),
        ("a.c", "xabcx"),
        ("x{2,3}y", "xxy"),
        ("a{,2}", "a{,2}"),
        ("[", "["),
    ],
)
def test_matches(pattern, matching):
    assert name_matches(pattern, matching)


@pytest.mark.parametrize(
    ("pattern", "other"),
    [
        ("^web$", "web1"),
        ("^(db|cache)$", "dbcache"),
        ("[", "x["),
        ("a**", "a"),
        ("(a", "a"),
        ("(?=a)", "a"),
        ("x{3}", "xx"),
    ],
)
def test_does_not_match(pattern, other):
    assert not name_matches(pattern, other)


@pytest.mark.parametrize(
    "pattern", ["(a*)*$", "(a|a)*$", "(a+)+$", "(.*)*b", "((a{9}){9}){9}", "a?" * 200 + "a" * 100, "(" * 500]
)
def test_nothing_takes_long(pattern):
    start = time.process_time()
    name_matches(pattern, "a" * 250 + "!")
    assert time.process_time() - start < 3
