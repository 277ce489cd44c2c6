"""Times as Docker's API writes and reads them; inside orlop they are nanoseconds since the epoch, 0 for never."""

from __future__ import annotations

import datetime as dt
import re

from orlop.errors import InvalidParameterError

ZERO = "0001-01-01T00:00:00Z"
_NANO = 1_000_000_000
_UNIX = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9}))?", re.ASCII)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?)?(Z|[+-][0-9]{2}:[0-9]{2})?",
    re.ASCII,
)


def rfc3339(nanoseconds: int) -> str:
    """Return Go's RFC3339Nano in UTC: no trailing zeros; :data:`ZERO` for never."""
    if nanoseconds == 0:
        return ZERO
    seconds, rest = divmod(nanoseconds, _NANO)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def rfc3339_fixed(nanoseconds: int) -> str:
    """Return the form of log lines: always nine digits of fraction, so that columns line up."""
    seconds, rest = divmod(nanoseconds, _NANO)
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def parse_rfc3339(text: str) -> int:
    """Return nanoseconds of an RFC 3339 time; without zone it is UTC. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time: {text:.64}")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    offset = dt.timedelta()
    if zone not in (None, "Z"):
        offset = dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        if zone[0] == "-":
            offset = -offset
    moment = dt.datetime(
        int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=dt.UTC
    )
    whole = int((moment - offset - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)).total_seconds())
    return whole * _NANO + int((fraction or "").ljust(9, "0"))


def parse_timestamp(text: str) -> int:
    """Return nanoseconds of ``since``/``until``: ``1700000000``, ``1700000000.5`` or RFC 3339.

    Raises:
        InvalidParameterError: neither.
    """
    match = _UNIX.fullmatch(text)
    if match is not None:
        return int(match[1]) * _NANO + int((match[2] or "").ljust(9, "0"))
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise InvalidParameterError(f"failed to parse value as time or duration: {text!r}") from None


def human_duration(seconds: float) -> str:
    """Return go-units' HumanDuration: ``Less than a second``, ``About a minute``, ``3 weeks``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, unit, size in (
        (48, "hours", 1),
        (24 * 14, "days", 24),
        (24 * 60, "weeks", 168),
        (24 * 730, "months", 720),
    ):
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{int(seconds / 3600) // (24 * 365)} years"
