"""Reading members of the API's documents, of which any may be missing, null or of another type."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def member(document: Mapping[str, object], name: str) -> dict[str, object]:
    """Return an object, {} when there is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def members(document: Mapping[str, object], name: str) -> list[dict[str, object]]:
    """Return a list's objects, [] when there is none."""
    return objects(document.get(name))


def objects(value: object) -> list[dict[str, object]]:
    """Return a list's objects."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(document: Mapping[str, object], name: str) -> str:
    """Return a string, "" when there is none."""
    value = document.get(name)
    return value if isinstance(value, str) else ""


def texts(document: Mapping[str, object], name: str) -> list[str]:
    """Return a list of strings."""
    value = document.get(name)
    return [str(item) for item in value] if isinstance(value, list) else []


def number(document: Mapping[str, object], name: str) -> int:
    """Return a number, 0 when there is none."""
    value = document.get(name)
    return value if isinstance(value, int) else 0
