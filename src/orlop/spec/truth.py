"""Truth values as Docker's programs read them."""

from __future__ import annotations

_VALUES = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def find_bool(text: str) -> bool | None:
    """Return what Go's strconv.ParseBool makes of it; None for an error."""
    return _VALUES.get(text)


def parse_bool(text: str) -> bool:
    """Return the same. Raises ValueError in Go's words."""
    value = _VALUES.get(text)
    if value is None:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return value
