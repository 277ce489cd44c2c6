"""Volumes: directories that outlive containers.

::

    <data-root>/volumes/                 0701
      <name>/                            0701
        _data/                                  what containers see; theirs to change
      .new-<random>/                            a volume being made; removed at start
      .removed-<random>/                        a removed volume that is being deleted

A volume appears and disappears by one rename, its row just before. It exists when it has both a row and a directory;
a directory without a row is never touched, because it may hold somebody's data. Use counts are not stored: who uses a
volume is what the containers' records say, and is handed in.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.errors import (
    ConflictError,
    InvalidParameterError,
    NotFoundError,
    SystemFailureError,
)
from orlop.primitives.removal import remove_tree
from orlop.primitives.sql import transaction
from orlop.primitives.tombstones import entomb, tombstones
from orlop.volumes.local_options import parse_local_options

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    name TEXT PRIMARY KEY,
    driver TEXT NOT NULL,
    labels TEXT,                    -- JSON object or NULL
    options TEXT,                   -- JSON object or NULL
    created INTEGER NOT NULL,       -- nanoseconds since the epoch
    filled INTEGER NOT NULL         -- 1: an image's content was copied in, or the time for that has passed
) STRICT;
"""
LOCAL = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NAME_LIMIT = 255
_NEW = ".new-"
_PRIVATE = 0o701


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume.

    Attributes:
        labels: None is Docker's ``null``.
        options: of the driver; None likewise.
        created: nanoseconds since the epoch.
        path: ``Mountpoint``, the directory that containers get.
        filled: copy-up was done or is not wanted any more.
    """

    name: str
    driver: str
    labels: dict[str, str] | None
    options: dict[str, str] | None
    created: int
    path: str
    filled: bool = False

    @property
    def anonymous(self) -> bool:
        """Whether nobody named it."""
        return self.labels is not None and ANONYMOUS_LABEL in self.labels


class VolumeStore:
    """Owns the table and the directory above. Synchronous and short."""

    def __init__(self, database: sqlite3.Connection, root: str) -> None:
        self._database = database
        self._root = root
        self._volumes: dict[str, Volume] = {}

    def load(self) -> list[str]:
        """Read the rows, call once; returns tombstones that a crash left."""
        os.makedirs(self._root, exist_ok=True)
        os.chmod(self._root, _PRIVATE)
        for name in os.listdir(self._root):
            if name.startswith(_NEW):
                remove_tree(os.path.join(self._root, name))
        rows = self._database.execute("SELECT name, driver, labels, options, created, filled FROM volumes").fetchall()
        for name, driver, labels, options, created, filled in rows:
            if os.path.isdir(self._path(name)):
                parsed = (_parse(labels), _parse(options))
                self._volumes[name] = Volume(name, driver, *parsed, created, self._path(name), filled=bool(filled))
            else:
                self._database.execute("DELETE FROM volumes WHERE name = ?", (name,))
        return self.tombstones()

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name, "_data")

    def create(
        self,
        name: str = "",
        *,
        driver: str = LOCAL,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one that has the name, as Docker does.

        Args:
            name: empty for an anonymous volume with a random name.
            driver: only ``local``.
            options: of the driver (:mod:`orlop.volumes.local_options`).
            labels: None for none.

        Raises:
            InvalidParameterError: bad name or option, in Docker's words.
            NotFoundError: another driver.
            UnsupportedError: a file system that this kernel does not have.
            ConflictError: the name is a volume with other options.
            SystemFailureError: no space left on device and the like; nothing is left behind.
        """
        if not name:
            name = secrets.token_hex(32)
            labels = {**(labels or {}), ANONYMOUS_LABEL: ""}
        _check_name(name)
        if driver not in ("", LOCAL):
            raise NotFoundError(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
        if name in self._volumes:
            return self._volumes[name]
        parse_local_options(name, options or {})
        plain_labels = dict(labels) if labels else None  # none at all is Docker's null
        plain_options = dict(options) if options else None
        volume = Volume(name, LOCAL, plain_labels, plain_options, time.time_ns(), self._path(name))
        try:
            self._make(volume)
        except OSError as error:
            raise SystemFailureError(f"create {name}: {(error.strerror or '').lower()}") from error
        self._volumes[name] = volume
        return volume

    def _make(self, volume: Volume) -> None:
        draft = os.path.join(self._root, _NEW + secrets.token_hex(8))
        final = os.path.join(self._root, volume.name)
        renamed = False
        try:
            if os.path.lexists(final):
                raise ConflictError(f"create {volume.name}: a directory without record is in the way: {final}")
            os.mkdir(draft, _PRIVATE)
            os.chmod(draft, _PRIVATE)
            data = os.path.join(draft, "_data")
            os.mkdir(data, 0o755)
            os.chmod(data, 0o755)  # noqa: S103 - containers' users must reach it; the directory above keeps others out
            row = (volume.name, volume.driver, _render(volume.labels), _render(volume.options), volume.created)
            with transaction(self._database, f"create {volume.name}"):
                self._database.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?, 0)", row)
                os.rename(draft, final)
                renamed = True
        except BaseException:
            if renamed:
                os.rename(final, draft)
            remove_tree(draft)
            raise

    def get(self, name: str) -> Volume:
        """Return a volume.

        Raises:
            NotFoundError: "get x: no such volume".
        """
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFoundError(f"get {name}: no such volume")
        return volume

    def volumes(self) -> list[Volume]:
        """Return all volumes by name."""
        return [self._volumes[name] for name in sorted(self._volumes)]

    def mark_filled(self, name: str) -> None:
        """Say that copy-up was done, so that it is never done again (threats.md B16)."""
        volume = self.get(name)
        if not volume.filled:
            with transaction(self._database, f"volume {name}"):
                self._database.execute("UPDATE volumes SET filled = 1 WHERE name = ?", (name,))
            self._volumes[name] = replace(volume, filled=True)

    def remove(self, name: str, users: Sequence[str] = (), *, force: bool = False) -> list[str]:
        """Remove a volume with its content; return the tombstone.

        Args:
            name: the volume.
            users: ids of containers that use it.
            force: a missing volume is fine; a used one is still refused.

        Raises:
            NotFoundError: "get x: no such volume".
            ConflictError: "remove x: volume is in use - [id]".
        """
        if name not in self._volumes:
            if force:
                return []
            raise NotFoundError(f"get {name}: no such volume")
        if users:
            raise ConflictError(f"remove {name}: volume is in use - [{', '.join(users)}]")
        try:
            left = [entomb(os.path.join(self._root, name))]
        except FileNotFoundError:
            left = []
        except OSError as error:
            raise SystemFailureError(f"remove {name}: {(error.strerror or '').lower()}") from error
        del self._volumes[name]
        with transaction(self._database, f"remove {name}"):
            self._database.execute("DELETE FROM volumes WHERE name = ?", (name,))
        return left

    def tombstones(self) -> list[str]:
        """Return what is left of removed volumes."""
        return tombstones(self._root)

    def unknown(self) -> list[str]:
        """Return the directories without a record: nobody's that is known, but data all the same."""
        names = os.listdir(self._root)
        return [os.path.join(self._root, name) for name in names if name not in self._volumes and name[0] != "."]

    def prune(self, candidates: Iterable[Volume], users: Mapping[str, Sequence[str]]) -> tuple[list[Volume], list[str]]:
        """Remove those of ``candidates`` that no container uses; return them and the tombstones."""
        removed = []
        tombstones = []
        for volume in candidates:
            if not users.get(volume.name):
                tombstones.extend(self.remove(volume.name))
                removed.append(volume)
        return removed, tombstones


def _check_name(name: str) -> None:
    if len(name.encode("utf-8", "surrogatepass")) < 2:  # Docker counts bytes
        raise InvalidParameterError(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters",
        )
    if not _NAME.fullmatch(name):
        quoted = json.dumps(name, ensure_ascii=False)
        raise InvalidParameterError(
            f"create {name}: {quoted} includes invalid characters for a local volume name, only "
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
        )
    if len(name) > _NAME_LIMIT:
        raise InvalidParameterError(f"create {name}: volume name is too long")


def _render(value: dict[str, str] | None) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)


def _parse(text: str | None) -> dict[str, str] | None:
    return None if text is None else {str(key): str(value) for key, value in json.loads(text).items()}
