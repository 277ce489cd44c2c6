"""What the lists of defences consist of; see ``defences.py``."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Change:
    """``old``, which is in the file exactly once, is replaced by ``new``."""

    file: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Defence:
    """One defence: rows of docs/reference/threats.md, a name, how to take it out, and who must notice.

    With ``spare`` the tests must still pass: another defence stands behind this one and suffices alone.
    """

    rows: tuple[str, ...]
    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    spare: bool = False


def defence(rows: str, name: str, *parts: str | tuple[str, str, str], spare: bool = False) -> Defence:
    """Return a defence of changes (tuples) and tests (text)."""
    changes = tuple(Change(*part) for part in parts if not isinstance(part, str))
    return Defence(tuple(rows.split()), name, changes, tuple(part for part in parts if isinstance(part, str)), spare)
