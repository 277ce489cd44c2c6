""".dockerignore: which files of a context stay out. No I/O.

A pattern is Go's filepath.Match with ``**`` for any number of directories; ``!`` brings back; the last pattern that
matches decides; a pattern that matches a directory matches all below it.
"""

from __future__ import annotations

import re

from orlop.errors import InvalidParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class IgnoreRules:
    """The patterns of one file, in order."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[tuple[bool, re.Pattern[str]]] = []
        for text in patterns:
            keep = text.startswith("!")
            clean = _clean(text[1:] if keep else text)
            if clean:
                self._patterns.append((keep, _compile(clean)))
        self.has_exceptions = any(keep for keep, _ in self._patterns)

    def ignores(self, path: str) -> bool:
        """Tell whether the file at this path, relative and with ``/``, stays out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        out = False
        for keep, pattern in self._patterns:
            if out == keep and any(pattern.fullmatch(prefix) for prefix in prefixes):
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


def _compile(pattern: str) -> re.Pattern[str]:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            while pattern.startswith("*", at):
                at += 1
            if pattern.startswith("/", at):
                at += 1
                out.append("(?:.*/)?")
            else:
                out.append(".*")
            continue
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise InvalidParameterError(f"syntax error in pattern: {pattern}")
            body = pattern[at:end]
            negated = body.startswith("^")
            body = re.sub(r"([\\\[\]&~|])", r"\\\1", body[1:] if negated else body)
            out.append(f"[{'^' if negated else ''}{body}]")
            at = end + 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise InvalidParameterError(f"syntax error in pattern: {pattern}") from None
