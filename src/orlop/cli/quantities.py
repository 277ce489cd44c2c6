"""Sizes, durations and times as Docker's client reads them (docker/go-units, Go's time package)."""

from __future__ import annotations

import re

_FACTORS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp])?(?:ib|b)?", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)


def parse_size(text: str) -> int:
    """Read a size in bytes with an optional unit, powers of 1024: "64m", "1.5g", "100kb".

    Raises:
        ValueError: in Docker's words.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** _FACTORS[(match[2] or "").lower()])


def parse_duration(text: str) -> int:
    """Read a Go duration, "1m30s", "500ms", in nanoseconds.

    Raises:
        ValueError: in Go's words.
    """
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total, position = 0, 0
    while position < len(body):
        match = _DURATION_PART.match(body, position)
        if match is None:
            digits = re.match(r"[\d.]+", body[position:], re.ASCII)
            if digits is not None and digits.end() == len(body) - position:
                raise ValueError(f'time: missing unit in duration "{text}"')
            raise ValueError(f'time: invalid duration "{text}"')
        whole, _, fraction = match[1].partition(".")
        unit = _NANOSECONDS[match[2].replace("µ", "u").replace("μ", "u")]
        total += int(whole or "0") * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        position = match.end()
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def parse_time(text: str) -> tuple[int, int]:
    """Read RFC 3339 (also shortened, then in UTC) or seconds since 1970 into seconds and nanoseconds.

    Raises:
        ValueError: neither.
    """
    seconds, _, fraction = text.partition(".")
    if seconds.removeprefix("-").isdigit() and (not fraction or fraction.isdigit()) and text.isascii():
        return int(seconds), int(fraction.ljust(9, "0")[:9] or "0")
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f'failed to parse value as time or duration: "{text}"')
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    clock = int(match[4] or 0) * 3600 + int(match[5] or 0) * 60 + int(match[6] or 0)
    zone = match[8] or "Z"
    offset = 0
    if zone != "Z":
        offset = (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60) * (-1 if zone[0] == "-" else 1)
    return _days(year, month, day) * 86400 + clock - offset, int((match[7] or "").ljust(9, "0"))


def timestamp(text: str, now: float) -> str:
    """Return ``--since``/``--until`` as the API takes it: seconds, with nanoseconds where a date was written.

    Args:
        text: RFC 3339, seconds since 1970, or a Go duration back from now.
        now: seconds since 1970.

    Raises:
        ValueError: none of these.
    """
    try:
        ago = parse_duration(text)
    except ValueError:
        ago = None
    if ago is not None and text != "0":
        moment = int(now * 10**9) - ago
        return f"{moment // 10**9}.{moment % 10**9:09d}"
    if "-" not in text[1:]:
        parse_time(text)
        return text
    seconds, nanoseconds = parse_time(text)
    return f"{seconds}.{nanoseconds:09d}"


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar (``datetime`` costs 3 ms to import)."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
