"""Removing a container: what others could see goes at once, what takes time is done when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, Protocol

from orlop.engine.containers.state import Status
from orlop.engine.containers.trees import remove_flat
from orlop.errors import ConflictError, OrlopError
from orlop.primitives.tombstones import entomb, tombstones

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.ending import Endings
    from orlop.engine.containers.settings import Settings
    from orlop.engine.containers.stopping import Stopper
    from orlop.engine.events import Events

_LOG = logging.getLogger(__name__)
_AGAIN = 2.0  # seconds between two tries on a full disk


class Layers(Protocol):
    """Where the writable layer is."""

    def remove_container(self, container_id: str) -> list[str]:
        """Take it away; returns tombstones."""


class Burials(Protocol):
    """Removes directory trees when nobody waits."""

    def bury(self, paths: Iterable[str]) -> None:
        """Remove these soon."""


class VolumeRemoval(Protocol):
    """Where volumes are removed."""

    def remove(self, name: str, *, users: Sequence[str] | None = None, force: bool = False) -> None:
        """Take a volume away. Raises ConflictError while a container uses it."""


class Remover:
    """Carries out ``DELETE /containers/{id}`` and ``--rm``."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        layers: Layers,
        volumes: VolumeRemoval,
        removals: Burials,
        events: Events,
        endings: Endings,
        stopper: Stopper,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._layers = layers
        self._volumes = volumes
        self._removals = removals
        self._events = events
        self._endings = endings
        self._stopper = stopper

    async def remove(self, container: Container, *, force: bool = False, with_volumes: bool = False) -> None:
        """Remove a container.

        Raises:
            ConflictError: it runs and ``force`` is not given, or its removal is under way; Docker's words.
        """
        if container.removing:
            raise ConflictError(f"removal of container {container.id} is already in progress")
        if container.state.running and not force:
            self._refuse(container)
        container.removing = True
        try:
            await self._endings.settle_restart(container)
            if container.restarting:
                self._endings.cancel_restart(container)
            while not container.removed:
                if container.alive:
                    await self._stopper.kill(container)
                async with container.lock:
                    if not container.alive:
                        self._take_away(container, with_volumes=with_volumes)
                    elif not force:  # a start was under way
                        self._refuse(container)
        except BaseException:
            container.removing = False
            raise

    @staticmethod
    def _refuse(container: Container) -> None:
        if container.state.status is Status.PAUSED:
            raise ConflictError(
                f'cannot remove container "/{container.name}": container is paused and must be unpaused first'
            )
        raise ConflictError(
            f'cannot remove container "/{container.name}": container is {container.state.status.value}: stop the'
            " container before removing or force remove",
        )

    async def remove_automatically(self, container: Container) -> None:
        """Remove an ``--rm`` container after its end, when there is room for that; ``removing`` is set already."""
        while not container.removed:
            async with container.lock:
                with contextlib.suppress(sqlite3.OperationalError):
                    self._take_away(container, with_volumes=True)
                    return
            await asyncio.sleep(_AGAIN)

    def bury_remains(self) -> None:
        """Remove the directories that an earlier engine took away and left; to be called once, before any removal."""
        self._removals.bury(tombstones(os.path.dirname(self._settings.container_dir("0"))))

    def finish(self, container: Container) -> None:
        """Remove what an earlier engine began to remove or did not finish to create; it can be tried again."""
        container.removing = True
        try:
            self._take_away(container, with_volumes=False)
        except BaseException:
            container.removing = False
            raise

    def _take_away(self, container: Container, *, with_volumes: bool) -> None:
        if container.removed:
            return
        if container.state.status is not Status.REMOVING:
            self._directory.set_state(container, status=Status.REMOVING)
        container.pending.close()
        left = self._layers.remove_container(container.id)
        try:
            with contextlib.suppress(FileNotFoundError):
                left.append(entomb(self._settings.container_dir(container.id)))
            remove_flat(self._settings.state_dir(container.id))
            self._directory.remove(container)
            if with_volumes:
                self._remove_volumes(container)
            self._events.publish("container", "destroy", container.id, container.attributes())
            container.notify_removed()
        finally:
            self._removals.bury(left)  # also when the rest has to be tried again: the layers know no more of it

    def _remove_volumes(self, container: Container) -> None:
        for point in container.definition.mounts:
            if point.kind != "volume" or not point.anonymous:
                continue
            try:
                self._volumes.remove(point.name)
            except OrlopError as error:
                _LOG.debug("volume %s stays: %s", point.name, error)
