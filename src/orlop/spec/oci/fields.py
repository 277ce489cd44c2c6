"""Strict reading of one JSON object: every value is taken by name with its type and range, or refused by its path.

The runtime-spec says that unknown properties must be ignored ("Extensibility"); a *security* object with a property
that this version does not know is refused all the same, because ignoring it would weaken what was asked
(threats.md C10). So is a property whose spelling differs from a known one only in case: runc's decoder would honour it.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue

INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1
UINT32_MAX = 2**32 - 1
# 2^32 - 1 is "no id" to the kernel (setresuid(2)), so an id ends one below
ID_MAX = 2**32 - 2


def check_string(value: JsonValue, path: str) -> str:
    """Return ``value`` if it is text that can be handed to the kernel: no NUL, no lone surrogate."""
    if not isinstance(value, str):
        raise InvalidParameterError(f"{path}: expected a string: {value!r:.80}")
    if "\0" in value:
        raise InvalidParameterError(f"{path}: NUL byte in a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidParameterError(f"{path}: not valid Unicode") from None
    return value


class Fields:
    """One JSON object being read.

    Args:
        value: the decoded object.
        path: where it is in the document, for errors; empty for the document itself.
        known: every property that is read from it.
        strict: refuse unknown properties (security objects).
        refused: properties of the specification that this version does not carry out; refused unless empty.
    """

    __slots__ = ("_path", "_value")

    def __init__(
        self,
        value: JsonValue,
        path: str,
        *,
        known: frozenset[str],
        strict: bool = False,
        refused: frozenset[str] = frozenset(),
    ) -> None:
        if not isinstance(value, dict):
            raise InvalidParameterError(f"{path or 'config'}: expected an object")
        self._value = value
        self._path = path
        for name in value.keys() - known:
            if name in refused:
                # nothing asks for nothing, nor does the zero of a caller who sends every number (docker update of old)
                if value[name] not in (None, 0, "", [], {}):
                    raise UnsupportedError(f"{self.at(name)} is not supported")
            elif strict:
                raise InvalidParameterError(f"unknown field: {self.at(name)}")
            else:
                self._check_case(name, known | refused)

    def _check_case(self, name: str, known: frozenset[str]) -> None:
        lowered = name.lower()
        for candidate in known:
            if candidate.lower() == lowered:
                raise InvalidParameterError(f"unknown field: {self.at(name)} (did you mean {candidate}?)")

    def at(self, name: str) -> str:
        """Return the path of property ``name``."""
        return f"{self._path}.{name}" if self._path else name

    def value(self, name: str) -> JsonValue:
        """Return the raw property; None when it is missing or null."""
        return self._value.get(name)

    def string(self, name: str, default: str = "") -> str:
        """Return a string property."""
        value = self._value.get(name)
        return default if value is None else check_string(value, self.at(name))

    def required(self, name: str) -> str:
        """Return a string property that must be there and not be empty."""
        value = self.string(name)
        if not value:
            raise InvalidParameterError(f"{self.at(name)}: must not be empty")
        return value

    def choice(self, name: str, choices: frozenset[str], default: str | None = None) -> str:
        """Return a string property out of a closed set; ``default`` only where it is missing."""
        if default is not None and self._value.get(name) is None:
            return default
        value = self.string(name)
        if value not in choices:
            raise InvalidParameterError(f"{self.at(name)}: unknown value: {value!r:.80}")
        return value

    def choices(self, name: str, choices: frozenset[str]) -> tuple[str, ...]:
        """Return a list of strings out of a closed set; empty when it is missing."""
        values = self.strings(name)
        for value in values:
            if value not in choices:
                raise InvalidParameterError(f"{self.at(name)}: unknown value: {value!r:.80}")
        return values

    def boolean(self, name: str) -> bool:
        """Return a boolean property; false when it is missing."""
        value = self._value.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise InvalidParameterError(f"{self.at(name)}: expected a boolean: {value!r:.80}")
        return value

    def integer(self, name: str, low: int = 0, high: int = INT64_MAX) -> int | None:
        """Return an integer property within ``low..high``; None when it is missing."""
        value = self._value.get(name)
        return None if value is None else _integer(value, self.at(name), low, high)

    def number(self, name: str, low: int = 0, high: int = INT64_MAX) -> int:
        """Return an integer property that must be there."""
        value = self.integer(name, low, high)
        if value is None:
            raise InvalidParameterError(f"{self.at(name)}: missing")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return a list of strings; empty when it is missing."""
        path = self.at(name)
        return tuple(check_string(item, path) for item in self.items(name))

    def integers(self, name: str, low: int = 0, high: int = INT64_MAX) -> tuple[int, ...]:
        """Return a list of integers; empty when it is missing."""
        path = self.at(name)
        return tuple(_integer(item, path, low, high) for item in self.items(name))

    def items(self, name: str) -> list[JsonValue]:
        """Return a list property; empty when it is missing."""
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidParameterError(f"{self.at(name)}: expected a list")
        return value

    def mapping(self, name: str) -> JsonObject:
        """Return an object property with arbitrary keys; empty when it is missing."""
        value = self._value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidParameterError(f"{self.at(name)}: expected an object")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """Return an object property whose values are strings."""
        path = self.at(name)
        return {
            check_string(key, path): check_string(text, f"{path}.{key}") for key, text in self.mapping(name).items()
        }


def _integer(value: JsonValue, path: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameterError(f"{path}: expected an integer: {value!r:.80}")
    if not low <= value <= high:
        # no digits of a hostile number in the message: str() of more than 4300 of them raises
        shown = f": {value}" if value.bit_length() <= 128 else ""
        raise InvalidParameterError(f"{path}: out of range {low}..{high}{shown}")
    return value
