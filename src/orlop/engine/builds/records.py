"""What is remembered of builds: which step gave which image, and the containers that a crash may leave."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.primitives.sql import transaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.engine.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS build_steps (
    key TEXT PRIMARY KEY,           -- of build.builder
    image TEXT NOT NULL             -- hex; the image may be gone
) STRICT;
CREATE TABLE IF NOT EXISTS build_uses (
    image TEXT PRIMARY KEY,         -- hex, of build_steps
    created_at INTEGER NOT NULL,    -- nanoseconds since the epoch: an image's own time may be any
    used_at INTEGER NOT NULL,
    uses INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS build_containers (
    name TEXT PRIMARY KEY           -- of a step that is running: written before the container is made
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Uses:
    """When an image was made and of use last, in nanoseconds since the epoch (0: not known), and how often it was."""

    created: int
    used: int
    count: int


class BuildRecords:
    """Owns the tables above."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connection
        self._touched: dict[str, int] = {}

    def image_of(self, key: str) -> str | None:
        """Return the id (hex) that a step gave."""
        row = self._connection.execute("SELECT image FROM build_steps WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, key: str, image: str) -> None:
        """Remember what a step gave."""
        # On a full disk the step is run once more, which is no reason to give up what it made.
        now = time.time_ns()
        with contextlib.suppress(SystemFailureError), transaction(self._connection, "keep build step"):
            self._connection.execute("INSERT OR REPLACE INTO build_steps VALUES (?, ?)", (key, image))
            self._connection.execute("INSERT OR IGNORE INTO build_uses VALUES (?, ?, ?, 0)", (image, now, now))

    def touch(self, image: str) -> None:
        """Count a use of what a step gave; :meth:`write_uses` makes it last."""
        self._touched[image] = self._touched.get(image, 0) + 1

    def write_uses(self) -> None:
        """Write the uses that were counted: once a build, not once a step."""
        touched, self._touched = self._touched, {}
        now = time.time_ns()
        if not touched:
            return
        with contextlib.suppress(SystemFailureError), transaction(self._connection, "count uses of build steps"):
            self._connection.executemany(
                "INSERT INTO build_uses VALUES (?, ?, ?, ?)"
                " ON CONFLICT (image) DO UPDATE SET used_at = excluded.used_at, uses = uses + excluded.uses",
                [(image, now, now, count) for image, count in touched.items()],
            )

    def uses(self) -> dict[str, Uses]:
        """Return the ids of the images that steps gave, and of what use they were."""
        query = (
            "SELECT DISTINCT s.image, coalesce(u.created_at, 0), coalesce(u.used_at, 0), coalesce(u.uses, 0)"
            " FROM build_steps s LEFT JOIN build_uses u ON u.image = s.image"
        )
        return {
            str(image): Uses(created, used, count) for image, created, used, count in self._connection.execute(query)
        }

    def forget(self, images: Iterable[str]) -> None:
        """Forget the steps that gave these images."""
        with transaction(self._connection, "forget build steps"):
            rows = [(image,) for image in images]
            self._connection.executemany("DELETE FROM build_steps WHERE image = ?", rows)
            self._connection.executemany("DELETE FROM build_uses WHERE image = ?", rows)

    def begin_container(self, name: str) -> None:
        """Say that a container of this name is about to be made."""
        with transaction(self._connection, "begin build step"):
            self._connection.execute("INSERT OR REPLACE INTO build_containers VALUES (?)", (name,))

    def end_container(self, name: str) -> None:
        """Say that the container is gone, or somebody else's business."""
        with transaction(self._connection, "end build step"):
            self._connection.execute("DELETE FROM build_containers WHERE name = ?", (name,))

    def containers(self) -> list[str]:
        """Return the names of containers that a crash left."""
        return [str(row[0]) for row in self._connection.execute("SELECT name FROM build_containers")]
