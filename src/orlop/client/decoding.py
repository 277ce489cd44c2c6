"""JSON text to values through the C scanner alone: ``json`` imports ``re``, together 7 ms of CPU at every start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.spec.json import JsonValue

_SPACE = " \t\r\n"


class _Context:
    """What ``json.JSONDecoder`` would tell the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner keeps its own; the attribute has to be there

    @staticmethod
    def parse_constant(name: str) -> float:
        """Refuse NaN and Infinity."""
        raise ValueError(f"not JSON: {name}")


def _find_scanner() -> Callable[[str, int], tuple[JsonValue, int]] | None:
    try:
        from _json import make_scanner
    except ImportError:  # an interpreter without CPython's accelerator
        return None
    scanner: Callable[[str, int], tuple[JsonValue, int]] = make_scanner(_Context)  # type: ignore[arg-type]
    return scanner


_scan = _find_scanner()


def decode(body: bytes) -> JsonValue:
    """Decode one JSON value.

    Raises:
        ValueError: it is none.
        RecursionError: nested too deeply.
    """
    text = body.decode()
    if _scan is None:
        import json

        value: JsonValue = json.loads(text)
        return value
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration:
        raise ValueError("not JSON") from None
    if text[end:].strip(_SPACE):
        raise ValueError("bytes after the end of the JSON value")
    return value
