"""Words of a Dockerfile: quotes, the escape character, and variables with their modifiers. No I/O, linear time.

``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``${NAME:+word}``, ``${NAME:?word}`` and the three without the colon, which
ask whether the variable is set at all; ``${NAME#pattern}`` and ``##`` without its beginning, ``%`` and ``%%`` without
its end, ``${NAME/pattern/word}`` and ``//`` with another word in it. A word after a modifier is expanded itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orlop.build.patterns import Pattern
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]", re.ASCII)
_MODIFIERS = frozenset((":-", ":+", ":?", "-", "+", "?", "#", "##", "%", "%%", "/", "//"))
_DEEPEST = 50
# What variables may make of one word: values that hold each other would grow without end.
_LONGEST = 1 << 20


def expand(word: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Remove quotes and escapes, and put variables in.

    Raises:
        InvalidParameterError: a quote or brace is not closed, a modifier is unknown, or a variable is required.
    """
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
    words: list[str] = []
    start, quote, position = -1, "", 0
    while position < len(text):
        char = text[position]
        if not quote and char.isspace():
            if start >= 0:
                words.append(text[start:position])
            start = -1
        else:
            start = position if start < 0 else start
            if char == escape and quote != "'":
                position += 1
            elif quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
        position += 1
    if start >= 0:
        words.append(text[start:])
    return words


class _Word:
    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._at = 0
        self._depth = 0
        self._size = 0
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
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in stop:
                self._at += 1
                return "".join(out)
            if char == "'":
                out.append(self._single())
            elif char == '"':
                self._double(out)
            elif char == "$":
                out.append(self._variable())
            elif char == self._escape:
                # At the very end it stands for itself no longer, as in Docker.
                out.append("\\" * self._raw + self._text[self._at + 1 : self._at + 2])
                self._at += 2
            else:
                out.append(char)
                self._at += 1
        if stop:
            raise InvalidParameterError("syntax error: missing '}'")
        return "".join(out)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise InvalidParameterError("unexpected end of statement while looking for matching single-quote")
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _double(self, out: list[str]) -> None:
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return
            if char == "$":
                out.append(self._variable())
                continue
            if char == self._escape and self._text[self._at + 1 : self._at + 2] in ('"', "$", self._escape):
                self._at += 1
                char = self._text[self._at]
            out.append(char)
            self._at += 1
        raise InvalidParameterError("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        braced = self._text.startswith("${", self._at)
        match = _NAME.match(self._text, self._at + (2 if braced else 1))
        if match is None:
            if braced:
                raise InvalidParameterError(f"syntax error: bad substitution: {self._text[self._at : self._at + 40]}")
            self._at += 1
            return "$"
        self._at = match.end()
        value = self._variables.get(match[0])
        if value is None and self.unset is not None and not (braced and self._has_default()):
            self.unset.append(match[0])
        if braced:
            value = self._modified(match[0], value)
        value = value or ""
        self._size += len(value)
        if self._size > _LONGEST:
            raise InvalidParameterError(f"variables make a word longer than {_LONGEST} characters: {match[0]}")
        return value

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
        self._raw = raw
        replaced = modifier[0] == "/" and self._text[self._at - 1] == "/"
        replacement = self._until("}") if replaced else ""
        if value is None:
            return ""
        pattern, longest = Pattern(word), len(modifier) == 2
        if modifier[0] == "#":
            return pattern.strip_prefix(value, longest=longest)
        if modifier[0] == "%":
            return pattern.strip_suffix(value, longest=longest)
        return pattern.replace(value, replacement, every=longest)
