"""CPU and memory node lists in the kernel's list format (cpuset(7)): ``0-3,7``."""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import is_number

# Docker's bound; a range is never expanded before it was checked against it (CVE-2018-20699, threats.md C9)
MAXIMUM = 8191


def parse_cpuset(text: str, *, maximum: int = MAXIMUM) -> frozenset[int]:
    """Return the numbers that ``text`` names; the empty string names none.

    Raises:
        InvalidParameterError: not in list format, a range that runs backwards, or a number above ``maximum``.
    """
    numbers: set[int] = set()
    if not text:
        return frozenset()
    if len(text) > 8 * MAXIMUM:
        raise InvalidParameterError("invalid list: too long")
    for item in text.split(","):
        low, dash, high = item.strip().partition("-")
        if not is_number(low, 5) or (dash and not is_number(high, 5)):
            raise InvalidParameterError(f"invalid format: {_shown(text)}")
        first, last = int(low), int(high or low)
        if last < first:
            raise InvalidParameterError(f"invalid format: {_shown(text)}")
        if last > maximum:
            raise InvalidParameterError(f"value out of range, maximum is {maximum}: {_shown(text)}")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def _shown(text: str) -> str:
    """Return what was given, as it is if it fits on a line."""
    return f"{text:.80}" if text.isprintable() else f"{text!r:.80}"


def format_cpuset(numbers: frozenset[int]) -> str:
    """Return the shortest list that names ``numbers``; the inverse of :func:`parse_cpuset`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
