"""Read JSON that strangers wrote.

Refused: documents over a size, duplicate keys (two readers would see two documents, threats.md E6), NaN and Infinity,
strings that are not valid Unicode, nesting beyond the interpreter's stack, numbers of thousands of digits.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn, cast

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue


def parse_object(data: bytes, *, limit: int, what: str) -> JsonObject:
    """Read one JSON object.

    Args:
        data: UTF-8.
        limit: most bytes.
        what: the document's name in errors, for instance ``image config``.

    Raises:
        InvalidParameterError: it is anything else.
    """
    if len(data) > limit:
        raise InvalidParameterError(f"{what} is larger than {limit} bytes: {len(data)}")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates do not survive this
    except (ValueError, RecursionError) as error:
        raise InvalidParameterError(f"invalid {what}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidParameterError(f"invalid {what}: not an object")
    return cast("JsonObject", value)


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _constant(name: str) -> NoReturn:
    raise ValueError(f"not a number: {name}")


class Fields:
    """Typed access to a JSON object's fields; ``None`` counts as absent, unknown fields are ignored."""

    def __init__(self, value: JsonObject, what: str) -> None:
        self._value = value
        self._what = what

    def _fail(self, key: str, expected: str) -> NoReturn:
        raise InvalidParameterError(f"invalid {self._what}: {key} is not {expected}")

    def has(self, key: str) -> bool:
        """Tell whether the field is there at all, null or not."""
        return key in self._value

    def text(self, key: str) -> str:
        """Return a string; empty when absent."""
        value = self._value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or "\0" in value:
            self._fail(key, "a string")
        return value

    def integer(self, key: str) -> int:
        """Return an integer within 64 bits; 0 when absent."""
        value = self._value.get(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
            self._fail(key, "an integer")
        return value

    def boolean(self, key: str) -> bool:
        """Return a boolean; False when absent."""
        value = self._value.get(key)
        if value is not None and not isinstance(value, bool):
            self._fail(key, "a boolean")
        return bool(value)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings; None when absent. A single string is a list of one, as dockerd reads it."""
        value = self._value.get(key)
        if value is None:
            return None
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            self._fail(key, "a list of strings")
        found = []
        for item in value:
            if not isinstance(item, str) or "\0" in item:
                self._fail(key, "a list of strings")
            found.append(item)
        return tuple(found)

    def object(self, key: str) -> Fields | None:
        """Return an object's fields; None when absent."""
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._fail(key, "an object")
        return Fields(value, f"{self._what}: {key}")

    def objects(self, key: str) -> list[Fields]:
        """Return a list of objects; empty when absent."""
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._fail(key, "a list of objects")
        found = []
        for item in value:
            if not isinstance(item, dict):
                self._fail(key, "a list of objects")
            found.append(Fields(item, f"{self._what}: {key}"))
        return found

    def names(self, key: str) -> tuple[str, ...] | None:
        """Return the keys of an object that is used as a set (``{"80/tcp": {}}``), in order; None when absent."""
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, dict) or any("\0" in name for name in value):
            self._fail(key, "an object")
        return tuple(sorted(value))

    def labels(self, key: str) -> dict[str, str] | None:
        """Return an object of strings; None when absent."""
        value = self._value.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._fail(key, "an object of strings")
        found = {}
        for name, item in value.items():
            if not isinstance(item, str):
                self._fail(key, "an object of strings")
            found[name] = item
        return found
