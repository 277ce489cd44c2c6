"""Sizes and durations as Docker's client writes them (docker/go-units). ``quantities`` reads them."""

from __future__ import annotations

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def human_size(size: float, *, digits: int = 3) -> str:
    """Return a decimal size with three significant digits, "4.26MB"."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """Return a binary size with four significant digits, "62.77MiB"."""
    return _scaled(size, 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, names: tuple[str, ...], digits: int) -> str:
    index = 0
    while size >= base and index < len(names) - 1:
        size /= base
        index += 1
    text = f"{size:.{digits}g}"
    if "e" in text:
        text = _go_exponent(text)
    return f"{text}{names[index]}"


def _go_exponent(text: str) -> str:
    """Go's %.3g writes 1e+03 for 999.9…; Python the same, so only the spelling is checked here."""
    mantissa, _, exponent = text.partition("e")
    sign = "-" if exponent.startswith("-") else "+"
    return f"{mantissa}e{sign}{int(exponent.lstrip('+-')):02d}"


def human_duration(seconds: float) -> str:
    """Return how long, as ``docker ps`` says it: "About a minute", "2 hours"."""
    whole = int(seconds)
    hours = int(seconds / 3600 + 0.5)
    for limit, text in (
        (whole < 1, "Less than a second"),
        (whole == 1, "1 second"),
        (whole < 60, f"{whole} seconds"),
        (whole < 120, "About a minute"),
        (whole < 3600, f"{whole // 60} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    ):
        if limit:
            return text
    return f"{int(seconds / 3600) // 24 // 365} years"
