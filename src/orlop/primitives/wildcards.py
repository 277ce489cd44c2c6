"""Names with wildcards, as Go's filepath.Match reads them. No I/O."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.primitives.tar.entry import shown


def is_wild(name: bytes) -> bool:
    """Tell whether a name holds a wildcard or an escape."""
    return any(char in name for char in (b"*", b"?", b"[", b"\\"))


def matches(pattern: bytes, name: bytes) -> bool:
    """Match one name as Go's filepath.Match does, escapes included; time is the product of the lengths.

    Raises:
        InvalidParameterError: "syntax error in pattern".
    """
    units = _units(pattern)
    at, unit, star, mark = 0, 0, -1, 0
    while at < len(name):
        if unit < len(units) and units[unit] is None:
            star, mark, unit = unit, at, unit + 1
        elif unit < len(units) and _takes(units[unit], name[at]):
            at, unit = at + 1, unit + 1
        elif star >= 0:
            mark += 1
            at, unit = mark, star + 1
        else:
            return False
    return all(rest is None for rest in units[unit:])


def _takes(unit: tuple[bool, tuple[tuple[int, int], ...]] | None, char: int) -> bool:
    if unit is None:
        return False
    negated, ranges = unit
    return any(low <= char <= high for low, high in ranges) != negated


def _units(pattern: bytes) -> list[tuple[bool, tuple[tuple[int, int], ...]] | None]:
    units: list[tuple[bool, tuple[tuple[int, int], ...]] | None] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            units.append(None)
        elif char == b"?":
            units.append((False, ((0, 255),)))
        elif char == b"[":
            end = pattern.find(b"]", at + 1)
            if end < 0:
                raise InvalidParameterError(f"syntax error in pattern: {shown(pattern)}")
            body = pattern[at:end]
            negated = body.startswith(b"^")
            units.append((negated, _ranges(body[1:] if negated else body)))
            at = end + 1
        else:
            if char == b"\\" and at < len(pattern):
                char, at = pattern[at : at + 1], at + 1
            units.append((False, ((char[0], char[0]),)))
    return units


def _ranges(body: bytes) -> tuple[tuple[int, int], ...]:
    found = []
    at = 0
    while at < len(body):
        if body[at + 1 : at + 2] == b"-" and at + 2 < len(body):
            found.append((body[at], body[at + 2]))
            at += 3
        else:
            found.append((body[at], body[at]))
            at += 1
    return tuple(found)
