"""Patterns of variable modifiers (``${NAME#pattern}``): ``*``, ``?``, and the escape character. No I/O.

Matching never goes back: between stars stand pieces of fixed length, and where a piece is found first (or last) is
where it may as well be. Time is at most the product of the lengths, which is bounded.
"""

from __future__ import annotations

import re

from orlop.errors import InvalidParameterError

_MOST_WORK = 1 << 24


class Pattern:
    """A pattern, read once.

    Args:
        text: ``*`` for any characters, ``?`` for one, a backslash before what stands for itself.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        pieces: list[list[str]] = [[]]
        at = 0
        while at < len(text):
            char = text[at]
            at += 1
            if char == "*":
                pieces.append([])
            elif char == "?":
                pieces[-1].append(".")
            else:
                if char == "\\" and at < len(text):
                    char, at = text[at], at + 1
                pieces[-1].append(re.escape(char))
        self._forward = [re.compile("".join(piece), re.DOTALL) for piece in pieces]
        self._backward = [re.compile("".join(reversed(piece)), re.DOTALL) for piece in reversed(pieces)]

    def strip_prefix(self, value: str, *, longest: bool) -> str:
        """Return the value without the beginning that matches."""
        self._check(value)
        return value[max(_end(self._forward, self._backward[0], value, longest=longest), 0) :]

    def strip_suffix(self, value: str, *, longest: bool) -> str:
        """Return the value without the end that matches."""
        self._check(value)
        end = _end(self._backward, self._forward[0], value[::-1], longest=longest)
        return value[: len(value) - max(end, 0)]

    def replace(self, value: str, replacement: str, *, every: bool) -> str:
        """Return the value with the first (``every``: each) match replaced, as long as it can be."""
        self._check(value)
        out: list[str] = []
        at = 0
        while self._text and (found := self._forward[0].search(value, at)) is not None:
            start = found.start()
            end = _end(self._forward, self._backward[0], value, longest=True, start=start)
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


def _end(
    pieces: list[re.Pattern[str]], last_backward: re.Pattern[str], value: str, *, longest: bool, start: int = 0
) -> int:
    """Return where a match that begins at ``start`` ends; -1 for none."""
    first = pieces[0].match(value, start)
    if first is None:
        return -1
    at = first.end()
    if len(pieces) == 1:
        return at
    for piece in pieces[1:-1]:
        found = piece.search(value, at)
        if found is None:
            return -1
        at = found.end()
    if longest:
        turned = value[::-1]
        back = last_backward.search(turned, 0, len(value) - at)
        return -1 if back is None else len(value) - back.start()
    last = pieces[-1].search(value, at)
    return -1 if last is None else last.end()
