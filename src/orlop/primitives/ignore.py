"""Which files of a tree stay out: the patterns of .dockerignore and ``COPY --exclude``. No I/O.

A pattern is Go's filepath.Match with ``**`` for any number of directories; ``!`` brings back; the last pattern that
matches decides; a pattern that matches a directory matches all below it.

Patterns are anybody's. One with few stars is a regular expression; one with more, where that could take for ever, is
simulated, in time of the product of the lengths.
"""

from __future__ import annotations

import re

from orlop.errors import InvalidParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# More stars than these are not left to the regular expression engine, which tries all ways to divide a name among them.
_FEW_STARS = 2
_FEW_DOUBLE_STARS = 1


class IgnoreRules:
    """The patterns of one file, in order."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[tuple[bool, Callable[[str], bool]]] = []
        for text in patterns:
            keep = text.startswith("!")
            clean = _clean(text[1:] if keep else text)
            if clean:
                self._patterns.append((keep, _matcher(clean)))
        self.has_exceptions = any(keep for keep, _ in self._patterns)

    def ignores(self, path: str) -> bool:
        """Tell whether the file at this path, relative and with ``/``, stays out."""
        out = False
        for keep, matches in self._patterns:
            if out == keep and matches(path):
                out = not keep
        return out


def parse_ignore(text: str) -> IgnoreRules:
    """Read a file. Raises InvalidParameterError: a pattern is malformed."""
    rows = (row.strip() for row in text.removeprefix("\ufeff").splitlines())
    return IgnoreRules(row for row in rows if row and not row.startswith("#"))


def _clean(text: str) -> str:
    parts: list[str] = []
    for part in text.strip().split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


_STAR = "*"  # any characters but /
_DOUBLE = "**"  # any characters
_MAYBE = "**/"  # nothing, or any characters and a /; two tokens follow for the second


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a path, or a directory above it, matches."""
    tokens = _tokens(pattern)
    doubles = sum(token in (_DOUBLE, _MAYBE) for token in tokens)
    if tokens.count(_STAR) <= _FEW_STARS and doubles <= _FEW_DOUBLE_STARS:
        expression = "".join(_expression(token) for token in tokens)
        try:
            compiled = re.compile(f"(?:{expression})(?:/.*)?", re.DOTALL)
        except re.error:
            raise InvalidParameterError(f"syntax error in pattern: {pattern}") from None
        return lambda path: compiled.fullmatch(path) is not None
    return _Simulation(tokens, pattern).matches


def _tokens(pattern: str) -> list[str]:
    """Split into stars and expressions of one character each."""
    tokens: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            while pattern.startswith("*", at):
                at += 1
            follows = pattern.startswith("/", at)
            at += follows
            tokens.append(_MAYBE if follows else _DOUBLE)
            continue
        at += 1
        if char == "*":
            tokens.append(_STAR)
        elif char == "?":
            tokens.append("[^/]")
        elif char == "\\" and at < len(pattern):
            tokens.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise InvalidParameterError(f"syntax error in pattern: {pattern}")
            body = pattern[at:end]
            negated = body.startswith("^")
            tokens.append(f"[{'^' if negated else ''}{_ranges(body[1:] if negated else body)}]")
            at = end + 1
        else:
            tokens.append(re.escape(char))
    return tokens


def _ranges(body: str) -> str:
    """Return what stands in a bracket, each character escaped."""
    found = []
    at = 0
    while at < len(body):
        last = at + 2 if body[at + 1 : at + 2] == "-" and at + 2 < len(body) else at
        found.append(f"{re.escape(body[at])}-{re.escape(body[last])}")
        at = last + 1
    return "".join(found)


def _expression(token: str) -> str:
    return {_STAR: "[^/]*", _DOUBLE: ".*", _MAYBE: "(?:.*/)?"}.get(token, token)


class _Simulation:
    """All ways at once: bit n says that the tokens before the n-th have matched what was read."""

    def __init__(self, tokens: list[str], pattern: str) -> None:
        self._singles: list[tuple[int, re.Pattern[str]]] = []
        self._stars = self._doubles = self._maybes = 0
        count = 0
        for token in tokens:
            if token == _STAR:
                self._stars |= 1 << count
            elif token == _DOUBLE:
                self._doubles |= 1 << count
            elif token == _MAYBE:
                self._maybes |= 1 << count
                self._doubles |= 1 << count + 1
                self._singles.append((count + 2, re.compile("/")))
                count += 2
            else:
                try:
                    self._singles.append((count, re.compile(token, re.DOTALL)))
                except re.error:
                    raise InvalidParameterError(f"syntax error in pattern: {pattern}") from None
            count += 1
        self._end = 1 << count
        self._masks: dict[str, int] = {}

    def matches(self, path: str) -> bool:
        """Tell whether the path, or a directory above it, matches."""
        states = self._spread(1)
        for char in path:
            if char == "/" and states & self._end:
                return True
            states = self._spread((states & self._mask(char)) << 1 | self._staying(states, char))
            if not states:
                return False
        return bool(states & self._end)

    def _mask(self, char: str) -> int:
        mask = self._masks.get(char)
        if mask is None:
            mask = 0
            for bit, single in self._singles:
                if single.fullmatch(char):
                    mask |= 1 << bit
            self._masks[char] = mask
        return mask

    def _staying(self, states: int, char: str) -> int:
        return states & (self._doubles if char == "/" else self._doubles | self._stars)

    def _spread(self, states: int) -> int:
        """Add what is reached without reading; a star may be followed by others."""
        while True:
            more = states | (states & (self._stars | self._doubles | self._maybes)) << 1
            more |= (states & self._maybes) << 3
            if more == states:
                return states
            states = more
