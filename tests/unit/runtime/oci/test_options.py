"""Command lines as Go's flag package and runc read them."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.runtime.oci.options import Flag, describe, parse

FLAGS = (
    Flag(("bundle", "b"), "DIR", "where"),
    Flag(("detach", "d"), "", "go"),
    Flag(("env", "e"), "X", "add", many=True),
)


@pytest.mark.parametrize(
    "line",
    [
        ["-b", "/x", "-d", "id"],
        ["--bundle=/x", "--detach", "id"],
        ["-bundle", "/x", "-detach=true", "id"],
        ["id", "-b", "/x", "-d"],
        ["-b=/x", "-d=1", "--", "id"],
    ],
)
def test_spellings(line):
    parsed = parse(line, FLAGS, interspersed=True)
    assert (parsed.text("bundle"), parsed.switch("detach"), parsed.arguments) == ("/x", True, ["id"])


@pytest.mark.parametrize("word", ["1", "t", "T", "TRUE", "true", "True"])
@pytest.mark.parametrize("off", [False, True])
def test_every_boolean_of_go(word, off):
    word = {"1": "0", "t": "f", "T": "F", "TRUE": "FALSE", "true": "false", "True": "False"}[word] if off else word
    assert parse([f"--detach={word}"], FLAGS, interspersed=True).switch("detach") is not off


def test_stops_at_the_first_argument_where_the_rest_is_a_command():
    parsed = parse(["-e", "A=1", "-e", "B=2", "id", "ls", "-d"], FLAGS, interspersed=False)
    assert parsed.arguments == ["id", "ls", "-d"]
    assert parsed.texts("env") == ["A=1", "B=2"]
    assert not parsed.switch("detach")


def test_dashes_after_double_dash_are_arguments():
    assert parse(["--", "-d", "-"], FLAGS, interspersed=True).arguments == ["-d", "-"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["-b"], "flag needs an argument: -b"),
        (["-d=maybe"], 'invalid boolean value "maybe" for -d'),
    ],
)
def test_errors_in_gos_words(line, words):
    with pytest.raises(InvalidParameterError, match=words):
        parse(line, FLAGS, interspersed=True)


@pytest.mark.parametrize("text", ["x", "1.5", "\u0661", "9" * 30, "--1"])
def test_numbers(text):
    parsed = parse([f"--bundle={text}"], FLAGS, interspersed=True)
    with pytest.raises(InvalidParameterError, match="parse error"):
        parsed.number("bundle")


def test_negative_number():
    assert parse(["--bundle", "-1"], FLAGS, interspersed=True).number("bundle") == -1


def test_help_names_every_flag():
    text = describe(FLAGS)
    assert "--bundle, -b DIR" in text
    assert len(text.splitlines()) == 3
