"""Volumes: what can be done with them, and what is told about it."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, NotFoundError
from orlop.volumes.filters import filter_volumes, prune_candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.engine.events import Events
    from orlop.engine.removals import Removals
    from orlop.volumes.store import Volume, VolumeStore


class VolumeService:
    """The use cases of volumes.

    Args:
        store: the volumes.
        removals: gets the trees of removed volumes.
        events: is told what happened.
        users: returns the ids of the containers that use each volume, by its name.
    """

    def __init__(
        self,
        store: VolumeStore,
        *,
        removals: Removals,
        events: Events,
        users: Callable[[], Mapping[str, Sequence[str]]],
    ) -> None:
        self.store = store
        self._removals = removals
        self._events = events
        self._users = users

    def create(
        self,
        name: str = "",
        *,
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one of this name. Raises InvalidParameterError, ConflictError."""
        before = len(self.store.volumes())
        volume = self.store.create(name, driver=driver, options=options, labels=labels)
        if len(self.store.volumes()) > before:
            self._events.publish("volume", "create", volume.name, {"driver": volume.driver})
        return volume

    def get(self, name: str) -> Volume:
        """Return a volume. Raises NotFoundError ("get x: no such volume")."""
        return self.store.get(name)

    def mark_filled(self, name: str) -> None:
        """Note that the image's content was copied into it."""
        self.store.mark_filled(name)

    def select(self, filters: Mapping[str, Sequence[str]]) -> list[Volume]:
        """Return the volumes that match, by name. Raises InvalidParameterError."""
        return filter_volumes(self.store, filters, self._users())

    def remove(self, name: str, *, users: Sequence[str] | None = None, force: bool = False) -> None:
        """Remove a volume that no container uses.

        Args:
            name: the volume.
            users: ids of containers that use it, where the caller knows better.
            force: a missing volume is fine.

        Raises:
            NotFoundError, ConflictError: in Docker's words.
        """
        if users is None:
            users = self._users().get(name, ())
        tombstones = self.store.remove(name, users, force=force)
        self._removals.bury(tombstones)
        if tombstones:
            self._events.publish("volume", "destroy", name, {"driver": "local"})

    async def prune(self, filters: Mapping[str, Sequence[str]], *, every: bool) -> tuple[list[str], int]:
        """Remove the volumes that no container uses; return their names and the bytes that they held.

        Args:
            filters: as decoded from the request.
            every: named ones too, as API versions below 1.42 do.
        """
        removed, reclaimed = [], 0
        for volume in prune_candidates(self.store, filters, every=every):
            if self._users().get(volume.name):
                continue
            size = await self.size(volume)
            try:
                self.remove(volume.name)
            except (ConflictError, NotFoundError):
                continue  # came into use, or was removed, while it was measured
            removed.append(volume.name)
            reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return removed, reclaimed

    async def size(self, volume: Volume) -> int:
        """Return the bytes of a volume's files."""
        return await asyncio.to_thread(directory_size, volume.path)


def directory_size(path: str) -> int:
    """Return the bytes of the files below a directory, hard links once; never follows links, blocks."""
    total, seen = 0, set()
    for _, _, files, directory in os.fwalk(path, follow_symlinks=False):
        for name in files:
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                if found.st_nlink > 1:
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total
