""".dockerignore: Go's patterns, exceptions, and what lies below what is ignored."""

import pytest

from orlop.build.ignore import parse_ignore
from orlop.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("text", "ignored", "kept"),
    [
        ("a", ["a", "a/b", "a/b/c"], ["b", "ab", "b/a"]),
        ("/a/\n", ["a", "a/b"], ["b/a"]),
        ("*.log", ["x.log"], ["a/x.log"]),
        ("**/*.log", ["x.log", "a/x.log", "a/b/x.log"], ["x.logs"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z", "a/z/below"], ["z", "a/zz"]),
        ("**", ["a", "a/b"], []),
        ("a/*/c", ["a/b/c"], ["a/c", "a/b/d"]),
        ("[ab]?", ["a1", "bz"], ["c1", "a", "a12"]),
        ("[^a]", ["b"], ["a"]),
        ("\\*", ["*"], ["a"]),
        ("*\n!keep\n", ["a"], ["keep", "keep/x"]),
        ("d\n!d/e\nd/e/f\n", ["d", "d/x", "d/e/f"], ["d/e", "d/e/g"]),
        ("# c\n\n  a  \n", ["a"], ["# c"]),
        # what docker's client does, found by comparing it with ours
        (" # c\n", ["# c"], []),
        ("a\x1c\r\nb", ["a\x1c", "b"], ["a"]),
        ("\x85a\xa0\n\u2028b", ["a", "b"], []),
        ("../a", [], ["a"]),
        ("/../a", ["a"], []),
        ("*\n/!a", ["b"], ["a"]),
        ("*\n! a ", ["b"], ["a"]),
        ("a\n!.\n", ["a"], []),
        ("***/a", ["x/a", "x/y/a"], ["a"]),
        ("x**a", ["xa", "xb/a"], ["xba"]),
        ("**a", ["a", "ba", "x/ba"], ["ab"]),
        ("**a?", ["ab", "x/ab"], ["bab"]),
        ("a**", ["a", "ab", "ab/c"], ["b"]),
        ("*b*/[-a]", ["b/a", "b/-"], ["b/b"]),
        ("\\[e\\]", ["[e]"], ["e"]),
        ("[a\\]b]", ["]", "b"], ["c"]),
        ("./a/../b", ["b"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a+(b", ["a+(b"], ["aab"]),
    ],
)
def test_patterns(text, ignored, kept):
    rules = parse_ignore(text)
    assert [path for path in ignored if not rules.ignores(path)] == []
    assert [path for path in kept if rules.ignores(path)] == []


@pytest.mark.parametrize(
    "text", ["[a", "[", "[]a]", "[-a]", "[^]a]", "[a-]", "\\", "a\\", "*/[-a]", "**/[]a]", "x/[a-", "[a\\"]
)
def test_malformed_pattern(text):
    with pytest.raises(InvalidParameterError, match="syntax error in pattern: "):
        parse_ignore(f"b\n{text}\n")


@pytest.mark.parametrize("text", ["!", "! ", "/!"])
def test_an_exception_of_nothing(text):
    with pytest.raises(InvalidParameterError, match='illegal exclusion pattern: "!"'):
        parse_ignore(text)


def test_a_file_of_nothing_but_patterns():
    """Four megabytes of them held the engine for minutes."""
    assert len(parse_ignore("a\n\n#\n" * 20_000).texts) == 20_000
    with pytest.raises(InvalidParameterError, match="too many patterns in an ignore file: more than 20000"):
        parse_ignore("a\n" * (2 << 20))
