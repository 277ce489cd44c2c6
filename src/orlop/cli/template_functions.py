"""Functions of ``--format`` templates: Go's own and Docker's."""

from __future__ import annotations

import json
import re

from orlop.cli.templates import Missing, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+))?([a-zA-Z%])")


def format_value(value: object) -> str:
    """Return a value as Go's %v prints it."""
    if callable(value):
        value = value()
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _go_float(value)
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{format_value(value[key])}' for key in sorted(value))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(format_value(item) for item in value)}]"
    if isinstance(value, Record):
        return f"{{{' '.join(format_value(item) for item in value.fields.values() if not callable(item))}}}"
    return str(value)


def _go_float(value: float) -> str:
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return re.sub(r"e([+-])(\d)$", r"e\g<1>0\2", repr(value))


def to_json(value: object) -> str:
    """Return compact JSON as Go's encoder writes it, without HTML escapes as Docker sets it."""
    encoded = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, Record):  # Docker's rows go through Go's own encoder, which escapes what HTML minds
        for character in "<>&":
            encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded


def _plain(value: object) -> object:
    if callable(value):
        return _plain(value())
    if isinstance(value, Record):
        return {key: _plain(value.fields[key]) for key in sorted(value.fields) if not callable(value.fields[key])}
    return None if isinstance(value, Missing) else value


def _printf(pattern: object, *arguments: object) -> str:
    left = list(arguments)

    def replace(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        text = _verb(verb, value, precision)
        size = int(width) if width and width != "*" else 0
        if "-" in flags:
            return text.ljust(size)
        return text.rjust(size, "0" if "0" in flags and verb in "dxXf" else " ")

    return _VERB.sub(replace, str(pattern))


def _verb(verb: str, value: object, precision: str | None) -> str:
    if verb == "q":
        return json.dumps(format_value(value), ensure_ascii=False)
    if verb in "dxXob" and isinstance(value, int):
        return format(value, verb)
    if verb in "feg" and isinstance(value, (int, float)):
        return format(value, f".{precision or 6}{verb}")
    if verb == "t":
        return format_value(bool(value))
    text = format_value(value)
    return text[: int(precision)] if precision and verb == "s" else text


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(str(key), "")
        elif isinstance(value, (list, tuple, str)) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = value[key]
        elif value is None or isinstance(value, Missing):
            raise ValueError("index of untyped nil")
        else:
            raise ValueError(f"can't index item of type {type(value).__name__}")
    return value


def _slice(value: object, *bounds: object) -> object:
    numbers = [bound for bound in bounds if isinstance(bound, int)]
    if not isinstance(value, (str, list)) or any(not 0 <= number <= len(value) for number in numbers):
        raise ValueError("slice bounds out of range")
    return value[slice(*numbers)] if len(numbers) > 1 else value[numbers[0] if numbers else 0 :]


def _length(value: object) -> int:
    if isinstance(value, (str, list, tuple, dict)):
        return len(value.encode()) if isinstance(value, str) else len(value)
    raise ValueError(f"len of type {type(value).__name__}" if value is not None else "len of nil pointer")


def _join(items: object, separator: object = "") -> str:
    if items is None or isinstance(items, Missing):
        return ""
    if not isinstance(items, (list, tuple)):
        raise ValueError("wrong type: expected a list")  # noqa: TRY004 - told to the user as the other refusals
    return str(separator).join(format_value(item) for item in items)


def _title(text: object) -> str:
    return re.sub(r"(?:^|(?<=\s))\w", lambda match: match[0].upper(), str(text))


def _truncate(text: object, length: object) -> str:
    return str(text)[: length if isinstance(length, int) else None]


def _pad(text: object, before: object, after: object) -> str:
    if not text:
        return ""
    return " " * int(str(before)) + str(text) + " " * int(str(after))


def _and(*values: object) -> object:
    return next((value for value in values if not value), values[-1])


def _or(*values: object) -> object:
    return next((value for value in values if value), values[-1])


def _compare(left: object, right: object) -> int:
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return (left > right) - (left < right)
    if isinstance(left, str) and isinstance(right, str):
        return (left > right) - (left < right)
    raise ValueError("incompatible types for comparison")


FUNCTIONS: dict[str, Callable[..., object]] = {
    "json": to_json,
    "join": _join,
    "split": lambda text, separator: str(text).split(str(separator)),
    "upper": lambda text: str(text).upper(),
    "lower": lambda text: str(text).lower(),
    "title": _title,
    "pad": _pad,
    "truncate": _truncate,
    "print": lambda *values: " ".join(format_value(value) for value in values),
    "println": lambda *values: " ".join(format_value(value) for value in values) + "\n",
    "printf": _printf,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "eq": lambda left, *others: any(left == other for other in others),
    "ne": lambda left, right: left != right,
    "lt": lambda left, right: _compare(left, right) < 0,
    "le": lambda left, right: _compare(left, right) <= 0,
    "gt": lambda left, right: _compare(left, right) > 0,
    "ge": lambda left, right: _compare(left, right) >= 0,
    "and": _and,
    "or": _or,
    "not": lambda value: not value,
}
