"""Identifiers of containers, execs, networks and events: 64 lower-case hexadecimal digits."""

from __future__ import annotations

import os
import re

SHORT_LENGTH = 12

_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def generate_id() -> str:
    """Return a new random id.

    Its short form is never made of digits only: it is used as host name, and Docker's rule is that a host name must
    not read as a number.
    """
    while True:
        text = os.urandom(32).hex()
        if not text[:SHORT_LENGTH].isdigit():
            return text


def short_id(text: str) -> str:
    """Return the first 12 characters of an id, without the algorithm of a digest."""
    return text.removeprefix("sha256:")[:SHORT_LENGTH]


def is_id(text: str) -> bool:
    """Whether ``text`` is a whole id."""
    return _ID.fullmatch(text) is not None


def is_id_prefix(text: str) -> bool:
    """Whether ``text`` may be the beginning of an id."""
    return _PREFIX.fullmatch(text) is not None
