"""Words: quotes, escapes, variables and modifiers, as dockerd 26 reads them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.build.expansion import expand, expand_words, split_words
from orlop.errors import InvalidParameterError

VARIABLES = {"A": "one", "B": "two words", "EMPTY": "", "_x1": "under"}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("$A", "one"), ("${A}x", "onex"), ("$Ax", ""), ("$_x1", "under"), ("x$", "x$"), ("$(A)", "$(A)"),
        ("'$A'", "$A"), ('"$A"', "one"), ('"a\\"b\\$A\\\\\\n"', 'a"b$A\\\\n'), ("a\\ b\\$A\\\\", "a b$A\\"),
        ("${A:-x}", "one"), ("${N:-x}", "x"), ("${EMPTY:-x}", "x"), ("${EMPTY-x}", ""), ("${N-x}", "x"),
        ("${A:+x}", "x"), ("${N:+x}", ""), ("${EMPTY:+x}", ""), ("${EMPTY+x}", "x"), ("${N+x}", ""),
        ("${A:?no}", "one"), ("${N:-${B}}", "two words"), ("${N:-'}'}", "}"), ("${N:-${M:-${A}}}", "one"), ("${N}", ""),
    ],
)  # fmt: skip
def test_expand(word, result):
    assert expand(word, VARIABLES) == result


def test_backtick_escapes():
    assert expand("a`$A\\b", VARIABLES, escape="`") == "a$A\\b"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("'a", "looking for matching single-quote"),
        ('"a', "looking for matching double-quote"),
        ("${A", "missing '}'"),
        ("${A:-", "missing '}'"),
        ("${", "bad substitution"),
        ("${A:=x}", r"unsupported modifier \(:=\) in substitution"),
        ("${N:?said so}", "N: said so"),
        ("${EMPTY:?}", "EMPTY: not allowed to be unset"),
        ("${a:-" * 100, "too deeply nested"),
    ],
)
def test_errors(word, message):
    with pytest.raises(InvalidParameterError, match=message):
        expand(word, VARIABLES)


def test_words():
    assert split_words("a 'b c' d\\ e \"f g\"h") == ["a", "'b c'", "d\\ e", '"f g"h']
    assert expand_words("$B x", VARIABLES) == ["two", "words", "x"]


def test_values_cannot_grow_without_end():
    with pytest.raises(InvalidParameterError, match="make a word longer"):
        expand("$A" * 10000, {"A": "x" * 10000})


@given(st.text(st.characters(exclude_characters="\0")))
def test_quoted_text_is_itself(text):
    quoted = "".join(f"\\{char}" if char in '"$\\' else char for char in text)
    assert expand(f'"{quoted}"', VARIABLES) == text


@pytest.mark.parametrize("word", ["$" * 65536, "${A:-" * 13000, "'" * 65535, "\\" * 65535, "${A}" * 16384, '"' * 65536])
def test_linear_time(word):
    began = time.process_time()
    try:
        expand(word, {"A": ""})
    except InvalidParameterError:
        pass
    assert time.process_time() - began < 0.15  # 50 ms on an idle machine
