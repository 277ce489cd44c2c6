"""Builds of the past: what was asked for, how it ended, and what its clients were told.

Kept in ``state.db`` within bounds: of those that nobody pinned the oldest go when there are more than :data:`MOST`, or
when all logs together are larger than :data:`MOST_BYTES`, compressed. A pin holds within :data:`MOST_PINNED`.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orlop.errors import NotFoundError, SystemFailureError, UnavailableError
from orlop.primitives.sql import transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.engine.database import Database

MOST = 100
MOST_PINNED = 100
MOST_BYTES = 16 << 20
_LONGEST_REF = 256
_MOST_ATTRIBUTES = 256 << 10  # of a record's JSON; more is not remembered

SCHEMA = """
CREATE TABLE IF NOT EXISTS build_history (
    ref TEXT PRIMARY KEY,           -- the client's name of the build
    completed_at INTEGER NOT NULL,  -- nanoseconds since the epoch
    pinned INTEGER NOT NULL,
    record TEXT NOT NULL,           -- JSON of PastBuild
    log BLOB NOT NULL               -- zlib; opaque here
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class PastBuild:
    """One build.

    Attributes:
        ref: its name.
        frontend: what made it, and with which attributes.
        exporters: type and attributes of what became of it.
        response: what programs were told of the result.
        created, completed: nanoseconds since the epoch; 0 while it goes on.
        code: of the error that it ended with, gRPC's; 0 for none.
        message: of that error.
        steps, completed_steps, cached_steps, warnings: how many there were.
        log_digest, log_size: of what clients were told, as they know it.
        generation: how often the record was changed.
        pinned: whether it is kept.
    """

    ref: str
    created: int
    frontend: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    exporters: Sequence[tuple[str, Mapping[str, str]]] = ()
    response: Mapping[str, str] = field(default_factory=dict)
    completed: int = 0
    code: int = 0
    message: str = ""
    steps: int = 0
    completed_steps: int = 0
    cached_steps: int = 0
    warnings: int = 0
    log_digest: str = ""
    log_size: int = 0
    generation: int = 0
    pinned: bool = False


class BuildHistory:
    """Owns the table above."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connection

    def keep(self, build: PastBuild, log: bytes) -> None:
        """Remember a build that is over. On a full disk it is forgotten, which is no reason for a build to fail."""
        if len(build.ref) > _LONGEST_REF:
            return
        text = _encode(build)
        if len(text) > _MOST_ATTRIBUTES:
            text = _encode(replace(build, attributes={}, exporters=(), response={}, message=build.message[:4096]))
        data = zlib.compress(log, 1)
        with contextlib.suppress(SystemFailureError), transaction(self._connection, "keep build record"):
            self._connection.execute(
                "INSERT OR REPLACE INTO build_history VALUES (?, ?, ?, ?, ?)",
                (build.ref, build.completed, build.pinned, text, data),
            )
            self._prune()

    def builds(self) -> list[PastBuild]:
        """Return all, newest first."""
        rows = self._connection.execute("SELECT record, pinned FROM build_history ORDER BY completed_at DESC")
        return [_decode(text, pinned=bool(pinned)) for text, pinned in rows]

    def find(self, ref: str) -> PastBuild | None:
        """Return one; None when there is none of that name."""
        row = self._connection.execute("SELECT record, pinned FROM build_history WHERE ref = ?", (ref,)).fetchone()
        return None if row is None else _decode(row[0], pinned=bool(row[1]))

    def log(self, ref: str) -> bytes | None:
        """Return what a build's clients were told; None when there is none of that name."""
        row = self._connection.execute("SELECT log FROM build_history WHERE ref = ?", (ref,)).fetchone()
        return None if row is None else zlib.decompress(row[0])

    def pin(self, ref: str, *, pinned: bool) -> PastBuild:
        """Keep a record from going, or let it go again; returns it as it is then.

        Raises:
            NotFoundError: there is none of that name.
            UnavailableError: too many are kept.
            SystemFailureError: it cannot be written.
        """
        found = self.find(ref)
        if found is None:
            raise NotFoundError(f"failed to retrieve ref {ref[:80]}: file does not exist")
        count = self._connection.execute("SELECT count(*) FROM build_history WHERE pinned AND ref <> ?", (ref,))
        if pinned and int(count.fetchone()[0]) >= MOST_PINNED:
            raise UnavailableError(f"too many pinned builds: {MOST_PINNED}")
        changed = replace(found, pinned=pinned, generation=found.generation + 1)
        with transaction(self._connection, "pin build record"):
            self._connection.execute(
                "UPDATE build_history SET pinned = ?, record = ? WHERE ref = ?", (pinned, _encode(changed), ref)
            )
            self._prune()
        return changed

    def remove(self, ref: str) -> bool:
        """Forget a build; whether there was one."""
        with transaction(self._connection, "remove build record"):
            return self._connection.execute("DELETE FROM build_history WHERE ref = ?", (ref,)).rowcount > 0

    def _prune(self) -> None:
        """Forget the oldest of what is too much."""
        total = int(self._connection.execute("SELECT coalesce(sum(length(log)), 0) FROM build_history").fetchone()[0])
        rows = self._connection.execute(
            "SELECT ref, length(log) FROM build_history WHERE NOT pinned ORDER BY completed_at, rowid"
        ).fetchall()
        excess = len(rows) - MOST
        for ref, size in rows:
            if excess <= 0 and total <= MOST_BYTES:
                return
            self._connection.execute("DELETE FROM build_history WHERE ref = ?", (ref,))
            total -= size
            excess -= 1


def _encode(build: PastBuild) -> str:
    return json.dumps({name: getattr(build, name) for name in PastBuild.__slots__}, separators=(",", ":"))


def _decode(text: str, *, pinned: bool) -> PastBuild:
    document = json.loads(text)
    exporters = tuple((kind, attributes) for kind, attributes in document.pop("exporters", ()))
    known = {name: value for name, value in document.items() if name in PastBuild.__slots__}
    return PastBuild(**{**known, "exporters": exporters, "pinned": pinned})
