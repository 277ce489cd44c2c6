"""One line of a json-file log, and Docker's framing of streams."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from orlop.spec.docker.times import parse_rfc3339, rfc3339_fixed

if TYPE_CHECKING:
    from collections.abc import Mapping

# A shim splits lines at 16 KiB; JSON escapes make at most six times of it, attributes are the rest.
LINE_LIMIT = 1 << 20
_HEADER = struct.Struct(">BxxxI")
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What the program wrote at once; ``text`` keeps its line end, a partial line has none.

    Attributes:
        time: nanoseconds since the epoch.
        stream: ``stdout`` or ``stderr``.
        text: as bytes.
        attributes: chosen labels and environment.
    """

    time: int
    stream: str
    text: bytes
    attributes: Mapping[str, str]


def parse_entry(line: bytes) -> LogEntry | None:
    """Read one line of the file; None for a damaged one, which readers skip."""
    try:
        document = json.loads(line)
        time = parse_rfc3339(document["time"])
        text = document["log"]
        stream = document.get("stream", "stdout")
        attributes = document.get("attrs") or {}
        if not isinstance(text, str) or stream not in _STREAMS or not isinstance(attributes, dict):
            return None
        return LogEntry(time, stream, text.encode("utf-8", "surrogatepass"), attributes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def frame(stream: str, payload: bytes) -> bytes:
    """Return stdcopy's frame: stream number, three zeros, length, payload."""
    return _HEADER.pack(_STREAMS[stream], len(payload)) + payload


def render(entry: LogEntry, *, timestamps: bool, details: bool) -> bytes:
    """Return what the client sees of an entry."""
    parts = []
    if timestamps:
        parts.append(rfc3339_fixed(entry.time).encode() + b" ")
    if details:
        pairs = sorted(entry.attributes.items())
        parts.append(
            ",".join(f"{quote_plus(str(key))}={quote_plus(str(value))}" for key, value in pairs).encode() + b" "
        )
    parts.append(entry.text)
    return b"".join(parts)
