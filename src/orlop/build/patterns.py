"""Patterns of variable modifiers (``${NAME#pattern}``): ``*``, ``?``, and the escape character. No I/O.

Matching never goes back: between stars stand pieces of fixed length, and where a piece is found first (or last) is
where it may as well be. Time is at most the product of the lengths, which is bounded.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_WORK = 1 << 24


class _Piece:
    """What stands between two stars; None is any character."""

    def __init__(self, chars: Sequence[str | None]) -> None:
        self._chars = chars
        self.length = len(chars)
        known = [char for char in chars if char is not None]
        self._text = "".join(known) if len(known) == len(chars) else None

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile("".join("." if char is None else re.escape(char) for char in self._chars), re.DOTALL)

    def reversed(self) -> _Piece:
        return _Piece(self._chars[::-1])

    def fits(self, value: str, at: int) -> bool:
        """Tell whether it stands there."""
        if self._text is not None:
            return value.startswith(self._text, at)
        return self._compiled.match(value, at) is not None

    def find(self, value: str, start: int, end: int) -> int:
        """Return where it stands first; -1 for nowhere."""
        if self._text is not None:  # most are; to compile an expression takes long
            return value.find(self._text, start, end)
        found = self._compiled.search(value, start, end)
        return -1 if found is None else found.start()


class Pattern:
    """A pattern, read once.

    Args:
        text: ``*`` for any characters, ``?`` for one, a backslash before what stands for itself.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        pieces: list[list[str | None]] = [[]]
        at = 0
        while at < len(text):
            char = text[at]
            at += 1
            if char == "*":
                pieces.append([])
            elif char == "?":
                pieces[-1].append(None)
            else:
                if char == "\\" and at < len(text):
                    char, at = text[at], at + 1
                pieces[-1].append(char)
        self._forward = [_Piece(piece) for piece in pieces]

    @cached_property
    def _backward(self) -> list[_Piece]:
        return [piece.reversed() for piece in reversed(self._forward)]

    def strip_prefix(self, value: str, *, longest: bool) -> str:
        """Return the value without the beginning that matches."""
        self._check(value)
        return value[max(_end(self._forward, value, longest=longest), 0) :]

    def strip_suffix(self, value: str, *, longest: bool) -> str:
        """Return the value without the end that matches."""
        self._check(value)
        end = _end(self._backward, value[::-1], longest=longest)
        return value[: len(value) - max(end, 0)]

    def replace(self, value: str, replacement: str, *, every: bool) -> str:
        """Return the value with the first (``every``: each) match replaced, as long as it can be."""
        self._check(value)
        if not value and self._text and not self._text.strip("*"):
            return replacement  # nothing is matched by stars alone
        out: list[str] = []
        at = 0
        while self._text and (start := self._forward[0].find(value, at, len(value))) >= 0:
            end = _end(self._forward, value, longest=True, start=start)
            if end <= start:
                break
            out += [value[at:start], replacement]
            at = end
            if not every:
                break
        return "".join((*out, value[at:]))

    def _check(self, value: str) -> None:
        if len(value) * len(self._text) > _MOST_WORK:
            raise InvalidParameterError(f"pattern is too long for this value: {self._text[:40]}")


def _end(pieces: Sequence[_Piece], value: str, *, longest: bool, start: int = 0) -> int:
    """Return where a match that begins at ``start`` ends; -1 for none."""
    first, last = pieces[0], pieces[-1]
    if not first.fits(value, start):
        return -1
    at = start + first.length
    if len(pieces) == 1:
        return at
    for piece in pieces[1:-1]:
        found = piece.find(value, at, len(value))
        if found < 0:
            return -1
        at = found + piece.length
    if longest:
        back = last.reversed().find(value[::-1], 0, len(value) - at)
        return -1 if back < 0 else len(value) - back
    found = last.find(value, at, len(value))
    return -1 if found < 0 else found + last.length
