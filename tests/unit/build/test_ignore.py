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
        ("./a/../b", ["b"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a+(b", ["a+(b"], ["aab"]),
    ],
)
def test_patterns(text, ignored, kept):
    rules = parse_ignore(text)
    assert [path for path in ignored if not rules.ignores(path)] == []
    assert [path for path in kept if rules.ignores(path)] == []


def test_malformed_pattern():
    with pytest.raises(InvalidParameterError, match=r"syntax error in pattern: \[a"):
        parse_ignore("[a")
