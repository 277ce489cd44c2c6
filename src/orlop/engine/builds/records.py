"""What is remembered of builds: which step gave which image, and the containers that a crash may leave."""

from __future__ import annotations

import contextlib
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
CREATE TABLE IF NOT EXISTS build_containers (
    name TEXT PRIMARY KEY           -- of a step that is running: written before the container is made
) STRICT;
"""


class BuildRecords:
    """Owns the tables above."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connection

    def image_of(self, key: str) -> str | None:
        """Return the id (hex) that a step gave."""
        row = self._connection.execute("SELECT image FROM build_steps WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, key: str, image: str) -> None:
        """Remember what a step gave."""
        # On a full disk the step is run once more, which is no reason to give up what it made.
        with contextlib.suppress(SystemFailureError), transaction(self._connection, "keep build step"):
            self._connection.execute("INSERT OR REPLACE INTO build_steps VALUES (?, ?)", (key, image))

    def images(self) -> list[str]:
        """Return the ids of the images that steps gave."""
        return [str(row[0]) for row in self._connection.execute("SELECT DISTINCT image FROM build_steps")]

    def forget(self, images: Iterable[str]) -> None:
        """Forget the steps that gave these images."""
        with transaction(self._connection, "forget build steps"):
            self._connection.executemany("DELETE FROM build_steps WHERE image = ?", [(image,) for image in images])

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
