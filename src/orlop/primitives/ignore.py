"""Which files of a tree stay out: the patterns of .dockerignore and ``COPY --exclude``. No I/O.

A pattern is Go's filepath.Match with ``**`` for any number of directories; ``!`` brings back; the last pattern that
matches decides; a pattern that matches a directory matches all below it. What is odd is as odd as in Docker (moby's
patternmatcher): ``/!a`` brings back, ``**a`` is what ends in a, ``x**a`` the same as ``x**/a``, and only the part
before a star has to be well-formed.

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
# Each is a regular expression, a look at every file, and a header of what BuildKit's clients are asked for.
_MOST = 20_000


class IgnoreRules:
    """The patterns of one file, in order; ``texts`` are these."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.texts = tuple(text for text in patterns if text)
        self._patterns: list[tuple[bool, Callable[[str], bool]]] = []
        for text in self.texts:
            keep = text.startswith("!")
            if text == "!":
                raise InvalidParameterError('illegal exclusion pattern: "!"')
            clean = _clean(text[1:] if keep else text)
            if clean not in ("", "."):
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
    """Read a file. Raises InvalidParameterError: a pattern is malformed, or there are too many."""
    rows = text.removeprefix("\ufeff").split("\n")
    patterns = [clean for row in rows if not row.startswith("#") and (clean := row.strip(_BLANKS))]
    if len(patterns) > _MOST:
        raise InvalidParameterError(f"too many patterns in an ignore file: more than {_MOST}")
    return IgnoreRules(_normal(text) for text in patterns)


def _normal(text: str) -> str:
    """Return a pattern as Docker cleans it: one that says nothing is an error, one of the context itself is not."""
    if not text.startswith("!"):
        return _clean(text)
    rest = text[1:].strip(_BLANKS)
    return f"!{_clean(rest) or '.'}" if rest else "!"


# What Go takes for blanks: Python's own list has the separators of ASCII as well.
_BLANKS = " \t\n\v\f\r\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def _clean(text: str) -> str:
    text = text.strip(_BLANKS)
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            del parts[-1]
        elif part == ".." and not text.startswith("/"):
            parts.append(part)  # which no path in a context is
        elif part not in ("", ".", ".."):
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
    at, strict = 0, True
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            strict = strict and all(token in (_STAR, _DOUBLE, _MAYBE) for token in tokens)
        if pattern.startswith("**", at):
            ends = at == 0 and not set(pattern[2:]) & set("*?[\\/")
            at += 2
            at += pattern.startswith("/", at)
            tokens.append(_DOUBLE if ends or at == len(pattern) else _MAYBE)
            continue
        at += 1
        if char == "*":
            tokens.append(_STAR)
        elif char == "?":
            tokens.append("[^/]")
        elif char == "\\" and (strict or at < len(pattern)):
            char, at = _literal(pattern, at - 1)
            tokens.append(re.escape(char))
        elif char == "[":
            expression, at = _bracket(pattern, at, strict=strict)
            tokens.append(expression)
        else:
            tokens.append(re.escape(char))
    return tokens


def _bracket(pattern: str, at: int, *, strict: bool) -> tuple[str, int]:
    """Return the expression of what follows a ``[``, and where that ends: ``^``, then characters and ranges."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", at)):
        if strict and pattern.startswith(("-", "]"), at):
            raise InvalidParameterError(f"syntax error in pattern: {pattern}")
        first, at = _literal(pattern, at)
        last = first
        if pattern.startswith("-", at) and (strict or not pattern.startswith("]", at + 1)):
            if pattern.startswith(("-", "]"), at + 1):
                raise InvalidParameterError(f"syntax error in pattern: {pattern}")
            last, at = _literal(pattern, at + 1)
        ranges.append(f"{re.escape(first)}-{re.escape(last)}")
    return f"[{'^' if negated else ''}{''.join(ranges)}]", at + 1


def _literal(pattern: str, at: int) -> tuple[str, int]:
    """Return the character at a place, without the backslash before it, and where the next one is."""
    at += pattern.startswith("\\", at)
    if at >= len(pattern):
        raise InvalidParameterError(f"syntax error in pattern: {pattern}")
    return pattern[at], at + 1


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
