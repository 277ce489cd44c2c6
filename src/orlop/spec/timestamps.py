"""Times as Docker writes them: RFC 3339 in UTC, with the nanoseconds' trailing zeros left out."""

from __future__ import annotations

from datetime import UTC, datetime

ZERO = "0001-01-01T00:00:00Z"


def rfc3339_nano(moment: int) -> str:
    """Return ``2026-01-02T03:04:05.123456789Z`` of nanoseconds since the epoch; Go's zero time for 0."""
    if moment == 0:
        return ZERO
    seconds, fraction = divmod(moment, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def rfc3339_seconds(moment: int) -> str:
    """Return ``2026-01-02T03:04:05Z`` of nanoseconds since the epoch."""
    return datetime.fromtimestamp(moment // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix_seconds(text: str) -> int:
    """Return the seconds since the epoch of an RFC 3339 time, 0 if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
