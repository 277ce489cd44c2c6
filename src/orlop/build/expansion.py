"""Words of a Dockerfile: quotes, the escape character, and variables with their modifiers. No I/O, linear time.

``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``${NAME:+word}``, ``${NAME:?word}`` and the three without the colon, which
ask whether the variable is set at all; ``${NAME#pattern}`` and ``##`` without its beginning, ``%`` and ``%%`` without
its end, ``${NAME/pattern/word}`` and ``//`` with another word in it. A word after a modifier is expanded itself.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from orlop.build.patterns import Pattern
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[^\W\d]\w*|[0-9@*#?$!-]")
# What a piece of a word is: the groups of _piece and _quoted_piece.
_PLAIN, _SINGLE, _NAMED, _BRACED, _ESCAPED, _OTHER = range(1, 7)
_QUOTING = re.compile(r"""['"\\`]""")
_WORDS = {
    escape: re.compile(
        rf"""(?:[^\s'"{mark}]+|{mark}(?:.|\Z)|'[^']*(?:'|\Z)|"(?:[^"{mark}]+|{mark}(?:.|\Z))*(?:"|\Z))+""",
        re.DOTALL,
    )
    for escape, mark in (("\\", r"\\"), ("`", "`"))
}
_SPECIAL = re.compile(r"""[$'"\\`\0]""")
_MODIFIERS = frozenset((":-", ":+", ":?", "-", "+", "?", "#", "##", "%", "%%", "/", "//"))
_DEEPEST = 50
# In one word; each may have to be compiled.
_MOST_PATTERNS = 1000
# What variables may make of one word: values that hold each other would grow without end.
_LONGEST = 1 << 20


@cache
def _piece(escape: str, stop: str, quote: str) -> re.Pattern[str]:
    """Return what reads the next piece of a word.

    Args:
        escape: the character that escapes.
        stop: characters that are pieces of their own, since something ends there.
        quote: a double quote: within two of them; empty: outside.
    """
    mark, name = re.escape(escape), f"({_NAME.pattern})"
    single = r"(?!)()" if quote else "'([^']*)'"
    escaped = rf'(["${mark}])' if quote else "(.?)"
    plain = rf"""([^$"{mark}{stop}{"" if quote else "'"}]+)"""
    return re.compile(rf"{plain}|{single}|\${name}|\${{{name}}}|{mark}{escaped}|(.)", re.DOTALL)


def expand(word: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Remove quotes and escapes, and put variables in.

    Raises:
        InvalidParameterError: a quote or brace is not closed, a modifier is unknown, or a variable is required.
    """
    if _SPECIAL.search(word) is None:
        return word
    return _Word(word, variables, escape).whole()


def expand_words(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """Expand, then split at white space (``EXPOSE $PORTS``). Raises InvalidParameterError."""
    return [
        part for word in split_words(text, escape=escape) for part in expand(word, variables, escape=escape).split()
    ]


def unset_variables(word: str, variables: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """Return the variables that a word needs and that are not set, as they are named; a default is not needed.

    Raises:
        InvalidParameterError: as :func:`expand`, but for what ``?`` requires.
    """
    reader = _Word(word, variables, escape)
    reader.unset = []
    reader.whole()
    return reader.unset


def split_words(text: str, *, escape: str = "\\") -> list[str]:
    """Split at white space outside of quotes; quotes and escapes stay."""
    if _QUOTING.search(text) is None:
        return text.split()
    return _WORDS[escape].findall(text)


class _Word:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._at = 0
        self._depth = 0
        self._size = 0
        self._patterns = 0
        self._raw = False  # escapes stay: the word is a pattern
        self.unset: list[str] | None = None  # None: nobody asks

    def whole(self) -> str:
        result = self._until("")
        if "\0" in result:
            raise InvalidParameterError("an argument holds a NUL character")
        return result

    def _until(self, stop: str) -> str:
        """Read until one of these characters, which is taken; to the end if there is none to stop at."""
        out: list[str] = []
        text, piece = self._text, _piece(self._escape, stop, "").match
        while (found := piece(text, self._at)) is not None:
            kind = found.lastindex
            if kind is None:
                break  # never: a piece is always of one kind
            if kind <= _SINGLE:
                self._at = found.end()
                out.append(found[kind])
            elif kind <= _BRACED:
                self._at = found.end()
                out.append(self._value(found[kind]))
            elif kind == _ESCAPED:
                self._at = found.end()
                # At the very end it stands for itself no longer, as in Docker.
                out.append(f"\\{found[kind]}" if self._raw else found[kind])
            elif (char := found[kind]) in stop:
                self._at += 1
                return "".join(out)
            elif char == "$":
                out.append(self._variable())
            elif char == '"':
                self._double(out)
            else:
                raise InvalidParameterError("unexpected end of statement while looking for matching single-quote")
        if stop:
            raise InvalidParameterError("syntax error: missing '}'")
        return "".join(out)

    def _double(self, out: list[str]) -> None:
        self._at += 1
        text, piece = self._text, _piece(self._escape, "", '"').match
        while (found := piece(text, self._at)) is not None:
            kind = found.lastindex
            if kind is None:
                break  # never: a piece is always of one kind
            if kind in (_NAMED, _BRACED):
                self._at = found.end()
                out.append(self._value(found[kind]))
            elif kind == _OTHER and (char := found[kind]) in '"$':
                if char == '"':
                    self._at += 1
                    return
                out.append(self._variable())
            else:
                self._at = found.end()
                out.append(found[kind])
        raise InvalidParameterError("unexpected end of statement while looking for matching double-quote")

    def _value(self, name: str) -> str:
        """Return what a variable without a modifier stands for."""
        value = self._variables.get(name)
        if value is None:
            if self.unset is not None:
                self.unset.append(name)
            return ""
        return self._counted(name, value)

    def _counted(self, name: str, value: str) -> str:
        self._size += len(value)
        if self._size > _LONGEST:
            raise InvalidParameterError(f"variables make a word longer than {_LONGEST} characters: {name}")
        return value

    def _variable(self) -> str:
        """Read what begins with a dollar sign and is no plain name."""
        braced = self._text.startswith("${", self._at)
        match = _NAME.match(self._text, self._at + (2 if braced else 1))
        if match is None:
            if braced:
                raise InvalidParameterError(f"syntax error: bad substitution: {self._text[self._at : self._at + 40]}")
            self._at += 1
            return "$"
        self._at = match.end()
        if not braced:
            return self._value(match[0])
        value = self._variables.get(match[0])
        if value is None and self.unset is not None and not self._has_default():
            self.unset.append(match[0])
        return self._counted(match[0], self._modified(match[0], value) or "")

    def _has_default(self) -> bool:
        return self._text[self._at : self._at + 2].removeprefix(":")[:1] in ("-", "+")

    def _modified(self, name: str, value: str | None) -> str | None:
        head = self._text[self._at : self._at + 2]
        if head.startswith("}"):
            self._at += 1
            return value
        modifier = head if head in _MODIFIERS else head[:1]
        if not modifier:
            raise InvalidParameterError("syntax error: missing '}'")
        if modifier not in _MODIFIERS:
            raise InvalidParameterError(
                f"unsupported modifier ({head if head[0] == ':' else modifier}) in substitution"
            )
        self._at += len(modifier)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise InvalidParameterError("variables in a word are too deeply nested")
        result = self._by_pattern(modifier, value) if modifier[0] in "#%/" else self._by_word(name, modifier, value)
        self._depth -= 1
        return result

    def _by_word(self, name: str, modifier: str, value: str | None) -> str | None:
        word = self._until("}")
        there = value is not None and (value != "" or not modifier.startswith(":"))
        if modifier.endswith("-"):
            return value if there else word
        if modifier.endswith("+"):
            return word if there else ""
        if not there and self.unset is None:
            raise InvalidParameterError(f"{name}: {word or 'not allowed to be unset'}")
        return value

    def _by_pattern(self, modifier: str, value: str | None) -> str:
        raw, self._raw = self._raw, True
        word = self._until("/}" if modifier[0] == "/" else "}")
        replaced = modifier[0] == "/" and self._text[self._at - 1] == "/"
        replacement = self._until("}") if replaced else ""  # with its escapes, as in BuildKit
        self._raw = raw
        if self.unset is not None:
            return ""
        value = value or ""
        self._patterns += 1
        if self._patterns > _MOST_PATTERNS:
            raise InvalidParameterError(f"more than {_MOST_PATTERNS} patterns in a word")
        pattern, longest = Pattern(word), len(modifier) == 2
        if modifier[0] == "#":
            return pattern.strip_prefix(value, longest=longest)
        if modifier[0] == "%":
            return pattern.strip_suffix(value, longest=longest)
        return pattern.replace(value, replacement, every=longest)
