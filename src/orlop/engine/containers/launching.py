"""Starting a container: network, files, one message to the spawner, its answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace as replace_struct

from orlop.engine.containers.announcing import announce_use
from orlop.engine.containers.cgroup_access import cgroups_path
from orlop.engine.containers.connecting import attach_request
from orlop.engine.containers.devices import host_devices
from orlop.engine.containers.files import existing_files, write_files
from orlop.engine.containers.links import link_environment, link_hosts, refresh_links, require_linked_run
from orlop.engine.containers.log_target import log_path, log_target
from orlop.engine.containers.mounts import make_bind_sources
from orlop.engine.containers.namespaces import shared_memory_donor, shared_namespaces
from orlop.engine.containers.oci_config import Surroundings, oci_config
from orlop.engine.containers.remapping import refuse_with_remapping, running_remapping
from orlop.engine.containers.start_failure import start_failure
from orlop.engine.containers.state import Status
from orlop.engine.containers.trees import remove_flat
from orlop.errors import ConflictError, NotModifiedError, OrlopError, SystemFailureError, UnsupportedError
from orlop.runtime.security.apparmor import DEFAULT_PROFILE, is_loaded, load_default_profile
from orlop.spec.launch import ContainerLaunch

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.ending import Endings
    from orlop.engine.containers.records import Definition
    from orlop.engine.containers.roots import Roots
    from orlop.engine.containers.settings import Settings
    from orlop.engine.events import Events
    from orlop.engine.shims import ShimConnection, Started
    from orlop.engine.spawner import Spawner
    from orlop.network.sandbox import AttachRequest, Sandbox
    from orlop.spec.json import JsonObject

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Network(Protocol):
    """What a start asks of the network service."""

    async def attach(self, container_id: str, request: AttachRequest) -> Sandbox:
        """Make the container's sandbox."""

    def release(self, container_id: str) -> None:
        """Undo it in the background."""

    def sandbox(self, container_id: str) -> Sandbox | None:
        """Return what was made."""

    @property
    def gateway(self) -> str:
        """The default bridge's address."""


class VolumeFilling(Protocol):
    """Which volumes wait for their first content."""

    def get(self, name: str) -> object:
        """Return the volume; its ``filled`` tells."""

    def mark_filled(self, name: str) -> None:
        """It has been filled."""


class Launcher:
    """Starts containers. The caller holds the container's lock."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        spawner: Spawner,
        layers: Roots,
        volumes: VolumeFilling,
        network: Network,
        events: Events,
        endings: Endings,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._spawner = spawner
        self._layers = layers
        self._volumes = volumes
        self._network = network
        self._events = events
        self._endings = endings
        self._turns: dict[str, asyncio.Lock] = {}  # by the name of a volume that is a tmpfs
        with open(BOOT_ID, encoding="ascii") as file:
            self._boot = file.read().strip()

    @property
    def boot(self) -> str:
        """The kernel's boot id."""
        return self._boot

    async def start(self, container: Container, *, by_policy: bool = False) -> None:
        """Start; returns when the program runs.

        Args:
            container: created or ended.
            by_policy: the restart policy starts it: restarts are counted on.

        Raises:
            NotModifiedError: it runs already.
            ConflictError: paused, or being removed.
            CommandNotFoundError, CommandNotExecutableError and others: why the program never ran; everything is undone.
        """
        self._require_startable(container)
        async with contextlib.AsyncExitStack() as turns:
            # Whoever comes second mounts what the first one has mounted.
            for name in sorted({point.name for point in container.definition.mounts if point.fstype == "tmpfs"}):
                await turns.enter_async_context(self._turns.setdefault(name, asyncio.Lock()))
            await self._start(container, by_policy=by_policy)

    async def _start(self, container: Container, *, by_policy: bool) -> None:
        attributes = container.attributes()
        try:
            with contextlib.ExitStack() as failed:
                started, shim = await self._launch(container, failed)
                failed.pop_all()
        except (OrlopError, OSError, sqlite3.OperationalError) as error:  # the latter: no space for a record
            problem = error if isinstance(error, OrlopError) else SystemFailureError(f"cannot start container: {error}")
            self._note_failure(container, problem)
            raise problem from error
        container.shim, container.pidfd = shim, started.pidfd
        self._endings.note(
            container,
            status=Status.RUNNING,
            pid=started.pid,
            start_time=started.start_time,
            started_at=started.started_at,
            finished_at=container.state.finished_at if container.state.started_at else 0,
            exit_code=0,
            error="",
            oom_killed=False,
            stopped=False,
            restarts=container.state.restarts if by_policy else 0,
            boot=self._boot,
        )
        container.stop_requested = False
        refresh_links(self._settings, container, self._directory, self._network.sandbox)
        announce_use(self._events, container, self._network.sandbox(container.id))
        self._events.publish("container", "start", container.id, attributes)
        self._endings.watch(container)
        for client in container.pending.take():  # they came while it was made
            with client.socket, contextlib.suppress(OrlopError):  # it has ended already: they see that
                await shim.attach(client.target, client.socket.fileno())

    def _require_startable(self, container: Container) -> None:
        if container.state.status is Status.PAUSED:
            raise ConflictError("cannot start a paused container, try unpause instead")
        if container.alive:
            raise NotModifiedError("container is already running")
        if container.removing or container.state.status in {Status.REMOVING, Status.DEAD}:
            raise ConflictError("container is marked for removal and cannot be started")

    async def _launch(self, container: Container, failed: contextlib.ExitStack) -> tuple[Started, ShimConnection]:
        definition = container.definition
        make_bind_sources(definition.mounts)
        await self.fill_volumes(container)
        failed.callback(self._network.release, container.id)
        require_linked_run(definition, self._directory, self._network.sandbox)
        request = attach_request(self._settings, definition)
        request = replace(request, network=self._network_mode(request.network))
        sandbox = await self._network.attach(container.id, request)
        await self._load_profile()
        container.config = self._config(container, sandbox, await self._owners(container))
        state_dir = self._settings.state_dir(container.id)
        remove_flat(state_dir)
        os.makedirs(state_dir, mode=0o700)
        failed.callback(remove_flat, state_dir)
        launch = ContainerLaunch(
            id=container.id,
            state_dir=state_dir,
            config=container.config,
            overlay=self._layers.root(container.id),
            log=log_target(definition, path=self._log_path(container)),
            open_stdin=definition.config.open_stdin,
            stdin_once=definition.config.stdin_once,
            init=self._settings.init if definition.host.init is None else definition.host.init,
            has_netns=sandbox.netns is not None,
            console_size=_console_size(container),
            attach=tuple(client.target for client in container.pending),
        )
        waiting = container.pending.take()
        clients = [client.socket.fileno() for client in waiting]
        netns = None if sandbox.netns is None else sandbox.netns.fileno()
        failed.callback(container.pending.close)
        with contextlib.ExitStack() as given:
            for client in waiting:
                given.callback(client.socket.close)
            shim = await self._spawner.start_container(launch, netns=netns, attach=clients)
            try:
                started = await shim.wait_started()
            except OrlopError as error:
                shim.close()
                raise start_failure(error) from error
            except BaseException:
                shim.close()
                raise
        return started, shim

    def _network_mode(self, mode: str) -> str:
        """Name the other container of ``container:`` by its id. Raises NotFoundError ``No such container: x``."""
        if not mode.startswith("container:"):
            return mode
        return f"container:{self._directory.get(mode.removeprefix('container:')).id}"

    async def _load_profile(self) -> None:
        """Load the default AppArmor profile again when somebody has unloaded it, as a reload of AppArmor does."""
        if self._settings.apparmor == DEFAULT_PROFILE and not is_loaded(DEFAULT_PROFILE):
            await asyncio.to_thread(load_default_profile)

    async def _owners(self, container: Container) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
        """Return, for each ``:U`` mount, whose files are shown as the container's user's."""
        points = [point for point in container.definition.mounts if point.own]
        if not points:
            return {}
        uid, gid = await self._spawner.identify(self._layers.view(container.id), container.definition.config.user)
        found = {}
        for point in points:
            status = os.stat(point.device or point.source)
            found[point.destination] = ((status.st_uid, uid), (status.st_gid, gid))
        return found

    def _config(
        self,
        container: Container,
        sandbox: Sandbox,
        owners: dict[str, tuple[tuple[int, int], tuple[int, int]]],
    ) -> JsonObject:
        definition = container.definition
        host = definition.host
        if sandbox.mode == "container":
            other = self._directory.get(host.network_mode.removeprefix("container:"))
            files = existing_files(self._settings.container_dir(other.id))
        else:
            links = link_hosts(definition, self._directory, self._network.sandbox)
            files = write_files(self._settings, definition, sandbox, gateway=self._network.gateway, links=links)
        shared = shared_namespaces(host, self._directory, network_mode=sandbox.mode)
        surroundings = self._surroundings(container, shared, files, sandbox.sysctls)
        remapping = None if host.userns_mode == "host" else self._settings.remapping
        if remapping is not None:
            refuse_with_remapping(host)  # it may have been created under other settings
        donor = shared_memory_donor(host, self._directory)
        views = {
            point.name: self._layers.image_view(point.name) for point in definition.mounts if point.kind == "image"
        }
        if views and remapping is not None:
            raise UnsupportedError("image mounts are not supported with user namespaces")
        surroundings = replace(
            surroundings,
            shm_donor=donor,
            tmpfs_donors=self._tmpfs_donors(definition),
            remapping=remapping,
            image_views=views,
            owners=owners,
        )
        linked = link_environment(definition, self._directory, self._network.sandbox)
        if linked or container.private_env:
            env = [*linked, *(definition.config.env or []), *container.private_env]
            config = replace_struct(definition.config, env=env)
            definition = replace_struct(definition, config=config)
        return oci_config(definition, surroundings)

    def _surroundings(
        self,
        container: Container,
        shared: dict[str, str],
        files: dict[str, str],
        sysctls: dict[str, str],
    ) -> Surroundings:
        host = container.definition.host
        devices, rules = host_devices(host)
        return Surroundings(
            cgroups_path=cgroups_path(self._settings, container),
            shared=shared,
            files=files,
            devices=devices,
            device_rules=rules,
            ulimits=self._settings.default_ulimits,
            sysctls=sysctls,
            no_new_privileges=self._settings.no_new_privileges,
            apparmor=self._settings.apparmor,
            shm_size=host.shm_size,
        )

    def adopted_config(self, container: Container) -> JsonObject:
        """Return the configuration that execs need, for a container that an earlier engine started.

        Namespaces of other containers are left out: an exec joins those of the container's init by its pidfd.
        """
        host = container.definition.host
        modes = {"network": host.network_mode, "pid": host.pid_mode, "ipc": host.ipc_mode}
        modes.update(uts=host.uts_mode, cgroup=host.cgroupns_mode)
        shared = {kind: "" for kind, mode in modes.items() if mode == "host"}
        surroundings = self._surroundings(container, shared, {}, {})
        # not what the settings say by now
        surroundings = replace(surroundings, remapping=running_remapping(container.state.pid))
        definition = container.definition
        mounts = tuple(point for point in definition.mounts if point.kind != "image")  # it may be gone by now
        return oci_config(replace_struct(definition, mounts=mounts), surroundings)

    def _tmpfs_donors(self, definition: Definition) -> dict[str, str]:
        """Return by destination, for the runtime, where a running container has the tmpfs that a volume is."""
        wanted = [point for point in definition.mounts if point.fstype == "tmpfs"]
        if not wanted:
            return {}
        there = {
            point.name: f"{other.state.pid}:{other.state.start_time}:{point.destination}"
            for other in self._directory
            for point in other.definition.mounts
            if other.alive and point.fstype == "tmpfs"
        }
        return {point.destination: there[point.name] for point in wanted if point.name in there}

    async def fill_volumes(self, container: Container) -> None:
        """Copy what the image has into volumes that wait for their first content."""
        for point in container.definition.mounts:
            if point.kind != "volume" or not point.copy or point.fstype not in {"", "bind"}:
                continue
            if getattr(self._volumes.get(point.name), "filled", True):
                continue
            view = self._layers.view(container.id)
            await self._spawner.copy_up(view, point.destination, target=point.device or point.source)
            self._volumes.mark_filled(point.name)

    def _log_path(self, container: Container) -> str:
        directory = self._settings.container_dir(container.id)
        return log_path(directory, container.id, container.definition.host.log_config)

    def _note_failure(self, container: Container, error: OrlopError) -> None:
        code = {"command_not_found": 127, "command_not_executable": 126}.get(error.kind, 128)
        status = container.state.status
        self._endings.note(
            container,
            status=Status.EXITED if status is Status.RESTARTING else status,
            exit_code=code,
            error=str(error),
        )
        self._events.publish("container", "die", container.id, container.attributes(exitCode=str(code)))


def _console_size(container: Container) -> tuple[int, int] | None:
    height, width = container.definition.host.console_size
    return (height, width) if container.definition.config.tty and height and width else None
