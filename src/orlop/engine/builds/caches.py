"""Directories that outlive builds: ``RUN --mount=type=cache``.

::

    <data-root>/build-cache/<sha256 of the name>-<slot>/     0700
      tree/                                                  what containers see
                                                             with build_caches a row each: a directory without one is
                                                             of a crash, and is removed at the next start

A name is hashed, never a path (threats.md F7). Who holds what is known here alone, for containers of this engine:

* ``shared``: any number at the same time, in slot 0;
* ``locked``: nobody beside, in slot 0, after a wait;
* ``private``: nobody beside, in the first slot that nobody holds.

A step that mounts several takes them in the order of their names, so no two steps wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.engine.volumes import directory_size
from orlop.primitives.sql import transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from orlop.engine.database import Database
    from orlop.engine.removals import Removals

SCHEMA = """
CREATE TABLE IF NOT EXISTS build_caches (
    id TEXT PRIMARY KEY,            -- hash of the name, slot: the directory's name
    name TEXT NOT NULL,             -- as the Dockerfile has it
    created_at INTEGER NOT NULL,    -- nanoseconds since the epoch
    used_at INTEGER NOT NULL,
    uses INTEGER NOT NULL
) STRICT;
"""
TREE = "tree"
_EXCLUSIVE = -1


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """One of them, as ``system df`` shows it.

    Attributes:
        id: of 64 hexadecimal digits and a slot.
        name: as the Dockerfile has it.
        size: bytes on disk.
        created_at: nanoseconds since the epoch.
        used_at: likewise.
        uses: how often it was mounted.
        in_use: somebody holds it now.
    """

    id: str
    name: str
    size: int
    created_at: int
    used_at: int
    uses: int
    in_use: bool


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What a step asks for: a name, a sharing mode, and what makes a new directory."""

    name: str
    sharing: str
    fill: Callable[[str], Coroutine[None, None, None]]


class CacheDirectories:
    """Owns the directories and the table above."""

    def __init__(self, directory: str, database: Database, removals: Removals) -> None:
        self._directory = directory
        self._connection = database.connection
        self._removals = removals
        self._holders: dict[str, int] = {}  # how many share it; _EXCLUSIVE: one, alone
        self._freed = asyncio.Condition()
        self._making: dict[str, asyncio.Lock] = {}

    def clean(self) -> None:
        """Remove what a crash left; call once at start."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        known = {str(row[0]) for row in self._connection.execute("SELECT id FROM build_caches")}
        there = set(os.listdir(self._directory))
        self._removals.bury(f"{self._directory}/{name}" for name in there - known)
        self._forget(known - there)

    @contextlib.asynccontextmanager
    async def hold(self, wishes: list[CacheWish]) -> AsyncIterator[dict[str, str]]:
        """Hold directories; gives their paths by name.

        Raises:
            SystemFailureError and others: a new one could not be made.
        """
        strictest = {"shared": 0, "locked": 1, "private": 2}
        chosen: dict[str, CacheWish] = {}
        for wish in wishes:
            before = chosen.get(wish.name)
            if before is None or strictest[before.sharing] < strictest[wish.sharing]:
                chosen[wish.name] = wish
        async with contextlib.AsyncExitStack() as stack:
            paths = {}
            for name in sorted(chosen):
                paths[name] = await stack.enter_async_context(self._hold(chosen[name]))
            yield paths

    @contextlib.asynccontextmanager
    async def _hold(self, wish: CacheWish) -> AsyncIterator[str]:
        key = hashlib.sha256(wish.name.encode("utf-8", "surrogateescape")).hexdigest()
        async with self._freed:
            cache_id = self._free(key, wish.sharing)
            while cache_id is None:
                await self._freed.wait()
                cache_id = self._free(key, wish.sharing)
            held = self._holders.get(cache_id, 0)
            self._holders[cache_id] = held + 1 if wish.sharing == "shared" else _EXCLUSIVE
        try:
            yield await self._ready(cache_id, wish)
        finally:
            await asyncio.shield(self._release(cache_id))

    def _free(self, key: str, sharing: str) -> str | None:
        """Return a directory that can be held this way now."""
        if sharing == "private":
            slot = 0
            while self._holders.get(f"{key}-{slot}", 0):
                slot += 1
            return f"{key}-{slot}"
        held = self._holders.get(f"{key}-0", 0)
        free = held != _EXCLUSIVE and (sharing == "shared" or not held)
        return f"{key}-0" if free else None

    async def _release(self, cache_id: str) -> None:
        async with self._freed:
            held = self._holders.pop(cache_id)
            if held > 1:
                self._holders[cache_id] = held - 1
            self._freed.notify_all()

    async def _ready(self, cache_id: str, wish: CacheWish) -> str:
        """Make the directory if there is none, and count its use."""
        path = f"{self._directory}/{cache_id}"
        async with self._making.setdefault(cache_id, asyncio.Lock()):
            if not _is_there(f"{path}/{TREE}"):
                await self._make(cache_id, wish)
        self._making.pop(cache_id, None)
        with transaction(self._connection, "use build cache"):
            self._connection.execute(
                "UPDATE build_caches SET used_at = ?, uses = uses + 1 WHERE id = ?", (time.time_ns(), cache_id)
            )
        return f"{path}/{TREE}"

    async def _make(self, cache_id: str, wish: CacheWish) -> None:
        new = f"{self._directory}/{secrets.token_hex(12)}.new"
        os.makedirs(f"{new}/{TREE}", mode=0o700)
        try:
            await wish.fill(f"{new}/{TREE}")
            now = time.time_ns()
            name = wish.name.encode("utf-8", "replace").decode()
            with transaction(self._connection, "make build cache"):
                self._connection.execute(
                    "INSERT OR REPLACE INTO build_caches VALUES (?, ?, ?, ?, 0)", (cache_id, name, now, now)
                )
            os.rename(new, f"{self._directory}/{cache_id}")
        except BaseException:
            self._removals.bury([new])
            raise

    async def usage(self) -> list[CacheDirectory]:
        """Return all of them with their sizes."""
        rows = self._connection.execute(
            "SELECT id, name, created_at, used_at, uses FROM build_caches ORDER BY created_at"
        ).fetchall()
        found = []
        for cache_id, name, created, used, uses in rows:
            size = await asyncio.to_thread(directory_size, f"{self._directory}/{cache_id}")
            in_use = bool(self._holders.get(cache_id))
            found.append(CacheDirectory(cache_id, name, size, created, used, uses, in_use))
        return found

    def remove(self, ids: list[str]) -> list[str]:
        """Forget directories and remove them soon; returns those that nobody holds, which are the ones that go."""
        going = [cache_id for cache_id in ids if not self._holders.get(cache_id)]
        self._forget(going)
        for cache_id in going:
            tomb = f"{self._directory}/{secrets.token_hex(12)}.old"
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self._directory}/{cache_id}", tomb)
                self._removals.bury([tomb])
        return going

    def _forget(self, ids: set[str] | list[str]) -> None:
        if ids:
            with transaction(self._connection, "forget build caches"):
                self._connection.executemany("DELETE FROM build_caches WHERE id = ?", [(name,) for name in ids])


def _is_there(path: str) -> bool:
    return os.path.isdir(path)
