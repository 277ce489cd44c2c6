"""JSON by the standard library's own C scanner and encoder, without the modules around them.

``import json`` costs a started process 7 ms, of regular expressions for the most part; a runtime is started for every
container. Texts of errors are ``json``'s.
"""

from __future__ import annotations

from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"
_CONSTANTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class _Rules:
    """What the scanner reads its settings from."""

    strict = True
    object_hook = None
    parse_float = float
    parse_int = int

    def __init__(self, pairs: Callable[[list[tuple[str, Any]]], Any] | None, constant: Callable[[str], Any]) -> None:
        self.object_pairs_hook = pairs
        self.parse_constant = constant


_scan = make_scanner(_Rules(None, _CONSTANTS.__getitem__))  # type: ignore[arg-type]  # typeshed's type is the scanner's own


def loads(
    data: bytes | str,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    parse_constant: Callable[[str], Any] = _CONSTANTS.__getitem__,
) -> Any:
    """Read one JSON value; bytes are UTF-8 (RFC 8259, section 8.1).

    Args:
        data: the text.
        object_pairs_hook: makes an object from its pairs.
        parse_constant: makes a value of NaN, Infinity and -Infinity, or raises ValueError.

    Raises:
        ValueError: it is not JSON.
        RecursionError: nested too deeply.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    plain = object_pairs_hook is None and parse_constant == _CONSTANTS.__getitem__
    scan = _scan if plain else make_scanner(_Rules(object_pairs_hook, parse_constant))  # type: ignore[arg-type]
    try:
        value, end = scan(text, len(text) - len(text.lstrip(_SPACE)))
    except StopIteration as stop:
        raise ValueError(f"Expecting value: {_place(text, stop.value)}") from None
    except (ImportError, SystemError):  # the scanner looks for JSONDecodeError, in a module that was not imported
        raise ValueError(_explain(text)) from None
    end += len(text) - end - len(text[end:].lstrip(_SPACE))
    if end != len(text):
        raise ValueError(f"Extra data: {_place(text, end)}")
    return value


def _explain(text: str) -> str:
    """Return what is wrong; less precisely where imports are blocked."""
    try:
        from json import loads as explain

        explain(text)
    except ImportError:
        return "malformed"
    except ValueError as error:
        return str(error)
    return "malformed"


def _place(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"line {line} column {index - text.rfind(chr(10), 0, index)} (char {index})"


def _refuse(value: object) -> object:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# markers, default, encoder, indent, key separator, item separator, sort keys, skip keys, allow NaN
_encode = make_encoder(None, _refuse, encode_basestring, None, ":", ",", False, False, True)
_encode_ascii = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)


def dumps(value: object, *, ensure_ascii: bool = True) -> str:
    """Return the most compact JSON text; with ``ensure_ascii`` all else is escaped. Raises TypeError."""
    return "".join((_encode_ascii if ensure_ascii else _encode)(value, 0))
