"""Reading JSON files that somebody else wrote: bounded, no duplicate keys, no NaN."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.primitives.json_text import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.spec.json import JsonObject, JsonValue

LIMIT = 16 << 20


def read_document(path: str) -> JsonValue:
    """Return the JSON value in a file.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidParameterError: not JSON, too large, or ambiguous.
    """
    return parse_document(read_file(path), path)


def read_file(path: str) -> bytes:
    """Return a file's (or pipe's) content of at most :data:`LIMIT` bytes. Raises OSError that names it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(fd)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Read to the end. Raises InvalidParameterError past :data:`LIMIT`."""
    chunks, size = [], 0
    while chunk := os.read(fd, 1 << 16):
        size += len(chunk)
        if size > LIMIT:
            raise InvalidParameterError(f"document is larger than {LIMIT} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def parse_document(data: bytes, name: str) -> JsonValue:
    """Decode JSON strictly. Raises InvalidParameterError."""
    try:
        value: JsonValue = loads(data, object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidParameterError(f"invalid JSON in {name}: {error}") from None
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice!r:.80}")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
