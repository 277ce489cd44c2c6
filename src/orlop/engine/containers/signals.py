"""Names of signals as users write them."""

from __future__ import annotations

import re
import signal

from orlop.errors import InvalidParameterError

_MAXIMUM = 64
_FIRST_REALTIME = 34  # glibc keeps the two below for itself


def parse_signal(text: str) -> int:
    """Return a signal's number from ``KILL``, ``SIGKILL``, ``9`` or ``RTMIN+3``.

    Raises:
        InvalidParameterError: ``invalid signal: x``.
    """
    if text.isascii() and text.isdigit() and len(text) < 4:
        number = int(text)
        if not 1 <= number <= _MAXIMUM:
            raise InvalidParameterError(f"invalid signal: {text}")
        return number
    name = text.upper().removeprefix("SIG")
    match = re.fullmatch(r"(RTMIN|RTMAX)(?:([+-])([0-9]{1,2}))?", name)
    if match is not None:
        start = _FIRST_REALTIME if match[1] == "RTMIN" else _MAXIMUM
        number = start + (int(f"{match[2]}{match[3]}") if match[2] else 0)
        if _FIRST_REALTIME <= number <= _MAXIMUM:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidParameterError(f"invalid signal: {text}")
    return int(found)
