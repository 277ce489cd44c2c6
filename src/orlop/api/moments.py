"""Times in query parameters."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.timestamps import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMESTAMP = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(h|ms|m|s|us|ns)", re.ASCII)
# all units once, with fractions
_LONGEST = 128
_NOT_PARSED = "failed to parse value as time or duration"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def parse_moment(text: str) -> int | None:
    """Return nanoseconds since the epoch of ``1700000000.5``, ``2026-01-02T03:04:05Z`` or ``10m`` (ago); None for "".

    Raises:
        InvalidParameterError: none of these.
    """
    if not text:
        return None
    if match := _TIMESTAMP.fullmatch(text):
        return int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    if len(text) > _LONGEST:
        raise InvalidParameterError(f'{_NOT_PARSED}: "{text[:_LONGEST]}"')
    parts = _DURATION_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time_ns() - int(sum(float(number) * _UNITS[unit] for number, unit in parts) * 1e9)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidParameterError(f'{_NOT_PARSED}: "{text}"') from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


def until_of(filters: Mapping[str, list[str]]) -> str | None:
    """Read the filter ``until`` (a time or a duration ago) as RFC 3339 with nanoseconds, as images have it.

    Raises:
        InvalidParameterError: no time, or more than one.
    """
    values = filters.get("until", [])
    if len(values) > 1:
        raise InvalidParameterError("more than one until filter specified")
    moment = parse_moment(values[0]) if values else None
    return None if moment is None else rfc3339_nano(moment)
