"""``WWW-Authenticate``: challenges as RFC 9110 section 11.6.1 has them, and which scopes they ask for. No I/O.

::

    challenge = scheme SP ( token68 / *( "," OWS name "=" ( token / quoted-string ) ) )

A header may hold several challenges, and several headers may come. What cannot be read is left out, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LIMIT = 8192
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar's token
_SCHEME = re.compile(rf"({_TOKEN})(?: +|$|(?=\s*,))")
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: ``scheme`` and the names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all WWW-Authenticate headers of an answer, in order."""
    found = []
    for header in headers:
        if len(header) <= _LIMIT:
            found.extend(_parse(header))
    return found


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = _skip(text, 0)
    while position < len(text):
        scheme = _SCHEME.match(text, position)
        if scheme is None:
            return found
        position = _skip(text, scheme.end())
        parameters: dict[str, str] = {}
        blob = _TOKEN68.match(text, position)
        if blob is not None and _PARAMETER.match(text, position) is None and _SCHEME.match(text, position) is None:
            position = _skip(text, blob.end())
        while (parameter := _PARAMETER.match(text, position)) is not None:
            value = parameter[3] if parameter[2] is None else _ESCAPE.sub(r"\1", parameter[2])
            parameters.setdefault(parameter[1].lower(), value)
            position = _skip(text, parameter.end())
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t,":
        position += 1
    return position


def pull_scope(path: str) -> str:
    """Return the scope of reading a repository."""
    return f"repository:{path}:pull"


def push_scope(path: str) -> str:
    """Return the scope of writing to a repository."""
    return f"repository:{path}:pull,push"
