"""The service of containers: finds them, takes their lock, and hands the work to the part that does it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

from orlop.engine.containers.archives import Archives
from orlop.engine.containers.attaching import attach, require_attachable
from orlop.engine.containers.cgroup_access import CgroupAccess
from orlop.engine.containers.connecting import Connector, attach_request
from orlop.engine.containers.creation import Creator
from orlop.engine.containers.directory import Directory
from orlop.engine.containers.ending import Endings
from orlop.engine.containers.launching import Launcher
from orlop.engine.containers.links import rename_links
from orlop.engine.containers.logs import container_log
from orlop.engine.containers.pruning import prunable
from orlop.engine.containers.records import ContainerRecords
from orlop.engine.containers.removal import Remover
from orlop.engine.containers.reports import Reports
from orlop.engine.containers.restore import Restorer
from orlop.engine.containers.roots import ContainerRoots
from orlop.engine.containers.stopping import Stopper
from orlop.engine.containers.updating import apply_limits, redefine
from orlop.engine.containers.users import count_states, image_users, volume_users
from orlop.engine.containers.waiting import wait, wait_end
from orlop.errors import ConflictError, InvalidParameterError, NotModifiedError, OrlopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.records import MountPoint
    from orlop.engine.containers.settings import Settings
    from orlop.engine.database import Database
    from orlop.engine.events import Events
    from orlop.engine.images import ImageService
    from orlop.engine.removals import Removals
    from orlop.engine.spawner import Spawner
    from orlop.engine.volumes import VolumeService
    from orlop.image.records import ImageUser
    from orlop.logs.entry import LogEntry
    from orlop.logs.reader import LogQuery
    from orlop.network.service import NetworkService
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.docker.containers import ContainerCreate, ContainerUpdate
    from orlop.spec.json import JsonObject
    from orlop.spec.launch import AttachTarget
    from orlop.storage.layers import LayerStore

_LOG = logging.getLogger(__name__)


class ContainerService:
    """Everything that the API can do with a container, except exec."""

    def __init__(  # noqa: PLR0913 - the collaborators; wired in one place
        self,
        settings: Settings,
        *,
        database: Database,
        events: Events,
        spawner: Spawner,
        images: ImageService,
        layers: LayerStore,
        volumes: VolumeService,
        network: NetworkService,
        removals: Removals,
    ) -> None:
        self.settings = settings
        self.events = events
        self.spawner = spawner
        self._images = images
        self._layers = layers
        self._network = network
        self._removals = removals
        self._database = database
        records = ContainerRecords(database)
        self.directory = Directory(records)
        self.cgroups = CgroupAccess(settings)
        self.endings = Endings(settings, self.directory, network=network, events=events, reap=self.cgroups.reap)
        self.reports = Reports(
            settings, self.directory, images=images, layers=layers, network=network, cgroups=self.cgroups, events=events
        )
        self._stopper = Stopper(
            self.directory,
            events=events,
            endings=self.endings,
            cgroups=self.cgroups.open,
            state_dir=settings.state_dir,
        )
        self.held = self._stopper.held
        self._creator = Creator(
            settings, self.directory, images=images, layers=layers, volumes=volumes, networks=network, events=events
        )
        self.connector = Connector(settings, self.directory, network=network, events=events)
        roots = ContainerRoots(layers, images)
        self._launcher = Launcher(
            settings,
            self.directory,
            spawner=spawner,
            layers=roots,
            volumes=volumes,
            network=network,
            events=events,
            endings=self.endings,
        )
        self.archives = Archives(
            settings, children=spawner, layers=roots, fill_volumes=self._launcher.fill_volumes, events=events
        )
        self._remover = Remover(
            settings,
            self.directory,
            layers=layers,
            volumes=volumes,
            removals=removals,
            events=events,
            endings=self.endings,
            stopper=self._stopper,
        )
        self.endings.start = lambda container: self._start(container, by_policy=True)
        self.endings.remove = self._remover.remove_automatically
        self._restorer = Restorer(
            self.directory,
            records,
            state_dir=settings.state_dir,
            endings=self.endings,
            remover=self._remover,
            adopted=self._adopted,
            boot=self._launcher.boot,
        )
        # Set by the exec service: begins health checks at each start.
        self.started = _no_listener

    # Life of the engine.

    async def adopt(self) -> dict[str, int]:
        """Take over what runs; returns container id to pidfd (borrowed), for the network's start."""
        return await self._restorer.adopt()

    async def resume(self) -> None:
        """After the network's start: finish what was begun, apply restart policies."""
        for container in self.directory:
            if container.definition.unsettled:
                await self._settle(container)
        await self._restorer.resume()
        for container in self.directory:
            if container.alive:
                self.started(container)

    async def _settle(self, container: Container) -> None:
        """Finish the change of what runs that an earlier engine had begun (faults.md R9)."""
        try:
            if container.shim is not None:
                apply_limits(container, cgroups=self.cgroups)
                await self.connector.finish(container)
            self.directory.mark(container, unsettled=False)
        except (OSError, OrlopError) as error:
            _LOG.warning("a change of %s that was begun cannot be finished: %s", container.id, error)

    async def close(self) -> None:
        """Let go of everything; running containers run on."""
        for container in self.directory:
            if container.health is not None:
                container.health.stop()
            container.pending.close()
        self.endings.close()
        for container in self.directory:
            if container.shim is not None:
                container.shim.close()

    def _adopted(self, container: Container) -> None:
        """Make the configuration that execs need, and end what only the engine before wanted."""
        container.config = self._launcher.adopted_config(container)
        self._stopper.release(container)

    # Verbs.

    def get(self, name: str) -> Container:
        """Find a container. Raises NotFoundError, InvalidParameterError."""
        return self.directory.get(name)

    async def create(
        self, request: ContainerCreate, name: str, *, platform: str = "", mounts: Sequence[MountPoint] = ()
    ) -> tuple[str, list[str]]:
        """Create; returns id and warnings. ``mounts`` are the engine's own, beside the user's."""
        container, warnings = await self._creator.create(request, name, platform=platform, mounts=mounts)
        return container.id, warnings

    async def start(self, name: str) -> None:
        """Start; returns when the program runs. An ``--rm`` container that cannot start is removed."""
        container = self.get(name)
        async with container.lock:
            self.endings.cancel_restart(container)
            await self._start(container)

    async def _start(self, container: Container, *, by_policy: bool = False) -> None:
        if not container.alive:
            await self.archives.interrupt(container)
        try:
            await self._launcher.start(container, by_policy=by_policy)
        except NotModifiedError:
            raise
        except OrlopError:
            if container.definition.host.auto_remove and not container.alive and not container.removing:
                container.removing = True
                self.endings.spawn(self._remover.remove_automatically(container))
            raise
        self.started(container)

    async def stop(self, name: str, *, signal_name: str = "", timeout: int | None = None) -> None:
        """Stop. Raises NotModifiedError."""
        await self._stopper.stop(self.get(name), signal_name=signal_name, timeout=timeout)

    async def restart(self, name: str, *, signal_name: str = "", timeout: int | None = None) -> None:
        """Stop if it runs, then start."""
        container = self.get(name)
        try:
            await self._restart(container, signal_name=signal_name, timeout=timeout)
        except OrlopError as error:
            raise type(error)(f"Cannot restart container {name}: {error}") from error
        self.events.publish("container", "restart", container.id, container.attributes())

    async def _restart(self, container: Container, *, signal_name: str, timeout: int | None) -> None:
        if container.state.running:
            # An --rm container is not to vanish in between.
            container.held += 1
            try:
                with contextlib.suppress(NotModifiedError):
                    await self._stopper.stop(container, signal_name=signal_name, timeout=timeout)
            finally:
                container.held -= 1
        async with container.lock:
            with contextlib.suppress(NotModifiedError):  # somebody else has started it meanwhile
                await self._start(container)

    async def kill(self, name: str, signal_name: str = "") -> None:
        """Send a signal."""
        await self._stopper.kill(self.get(name), signal_name)

    async def pause(self, name: str) -> None:
        """Freeze."""
        container = self.get(name)
        async with container.lock:
            await self._stopper.pause(container)

    async def unpause(self, name: str) -> None:
        """Thaw."""
        container = self.get(name)
        async with container.lock:
            self._stopper.unpause(container)

    async def remove(self, name: str, *, force: bool = False, with_volumes: bool = False) -> None:
        """Remove."""
        await self._remover.remove(self.get(name), force=force, with_volumes=with_volumes)

    def rename(self, name: str, new: str) -> None:
        """Give another name."""
        container = self.get(name)
        if not new:
            raise InvalidParameterError("Neither old nor new names may be empty")
        if new.removeprefix("/") == container.name:
            raise InvalidParameterError("Renaming a container with the same name as its current name")
        old = container.name
        with self._database.transaction():  # others find it by the new name as soon as it has that name
            try:
                self.directory.rename(container, new)
            except (ConflictError, InvalidParameterError) as error:
                raise type(error)(f"Error when allocating new name: {error}") from error
            self._network.rename(container.id, old, container.name)
            rename_links(self.settings, container, old, self.directory, self._network.sandbox)
        self.events.publish("container", "rename", container.id, container.attributes(oldName=f"/{old}"))

    def update(self, name: str, changes: ContainerUpdate) -> list[str]:
        """Change limits and restart policy; returns warnings."""
        container = self.get(name)
        unsettled = container.definition.unsettled  # by a change of its networks
        redefine(container, changes, directory=self.directory, cgroups=self.cgroups)
        if changes.annotations and container.alive:
            self._network.shape(container.id, attach_request(self.settings, container.definition).endpoints or ())
        self.directory.mark(container, unsettled=unsettled)
        self.events.publish("container", "update", container.id, container.attributes())
        return []

    async def resize(self, name: str, *, height: int, width: int) -> None:
        """Set the terminal's size. Raises ConflictError."""
        container = self.get(name)
        if container.shim is None:
            raise ConflictError(f"container {container.id} is not running")
        await container.shim.resize(height, width)
        attributes = container.attributes(height=str(height), width=str(width))
        self.events.publish("container", "resize", container.id, attributes)

    def require_attachable(self, name: str) -> Container:
        """Find a container for an attach. Raises NotFoundError, ConflictError."""
        container = self.get(name)
        require_attachable(container)
        return container

    async def attach(self, container: Container, target: AttachTarget, client: OwnedFd) -> None:
        """Give a client's socket to a container; it is taken over."""
        self.events.publish("container", "attach", container.id, container.attributes())
        await attach(container, target, client)

    def wait(self, name: str, condition: str) -> asyncio.Future[tuple[int, str]]:
        """Return a future of exit code and error text. Raises NotFoundError, InvalidParameterError."""
        return wait(self.get(name), condition)

    # Looking.

    def logs(self, container: Container, query: LogQuery, *, follow: bool) -> AsyncIterator[LogEntry]:
        """Yield log entries. Raises InvalidParameterError: the container writes no log."""
        return container_log(container, self.settings.container_dir(container.id), query, follow=follow)

    async def export(self, name: str, out_fd: int) -> None:
        """Write the root file system as tar."""
        container = self.get(name)
        self.events.publish("container", "export", container.id, container.attributes())
        if container.alive and container.pidfd is not None:
            try:
                await self.spawner.pack_running(container.state.pid, container.pidfd.fileno(), out_fd=out_fd)
            except ConflictError as error:
                await wait_end(container, error)  # nothing was written yet
            else:
                return
        await self.spawner.pack(self._layers.view(container.id), out_fd)

    async def changes(self, name: str) -> list[JsonObject]:
        """Return ``docker diff``."""
        container = self.get(name)
        found = await asyncio.to_thread(self._layers.changes, container.id)
        return [{"Path": os.fsdecode(change.path), "Kind": int(change.kind)} for change in found]

    async def prune(self, filters: Mapping[str, list[str]], *, until: int | None = None) -> tuple[list[str], int]:
        """Remove stopped containers, made before ``until``; returns their ids and the bytes given back."""
        wanted = prunable(filters, self.directory, until=until)
        removed, space = [], 0
        for container in wanted:
            size = await self.reports.own_size(container)
            with contextlib.suppress(OrlopError):
                await self._remover.remove(container)
                removed.append(container.id)
                space += size
        self.events.publish("container", "prune", "", {"reclaimed": str(space)})
        return removed, space

    # What other services ask.

    def image_users(self) -> list[ImageUser]:
        """Return which containers were made from, or mount, which image."""
        return image_users(self.directory)

    def volume_users(self) -> dict[str, list[str]]:
        """Return volume name to ids of containers."""
        return volume_users(self.directory)

    def counts(self) -> tuple[int, int, int]:
        """Return how many run, are paused, are stopped."""
        return count_states(self.directory)

    def name_of(self, container_id: str) -> str:
        """Return a container's name, its id if it is gone."""
        found = self.directory.find(container_id)
        return found.name if found is not None else container_id

    async def disk_usage(self) -> list[JsonObject]:
        """Return all summaries with sizes."""
        return await self.reports.summaries({}, every=True, size=True)


def _no_listener(container: Container) -> None:
    """Nobody wants to know about starts."""
    del container
