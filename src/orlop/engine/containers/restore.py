"""After a restart of the engine: what the records call running is adopted, or its end is looked up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from orlop.engine.containers.state import Status
from orlop.engine.containers.trees import remove_flat
from orlop.engine.shims import connect
from orlop.errors import OrlopError
from orlop.primitives.owned_fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.ending import Endings
    from orlop.engine.containers.records import ContainerRecords
    from orlop.engine.containers.removal import Remover
    from orlop.engine.shims import ShimConnection

_STATUS_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


class Restorer:
    """Brings records and the machine together at start-up."""

    def __init__(
        self,
        directory: Directory,
        records: ContainerRecords,
        *,
        state_dir: Callable[[str], str],
        endings: Endings,
        remover: Remover,
        adopted: Callable[[Container], None],
        boot: str,
    ) -> None:
        self._directory = directory
        self._records = records
        self._state_dir = state_dir
        self._endings = endings
        self._remover = remover
        self._adopted = adopted
        self._boot = boot
        self._unfinished: list[Container] = []
        self._ended: list[Container] = []
        self._restarting: list[Container] = []

    async def adopt(self) -> dict[str, int]:
        """Read the records and connect to the shims; returns id to pidfd (borrowed) of what runs."""
        running: dict[str, int] = {}
        for definition, state, ready in self._records.load():
            container = self._directory.adopt(definition, state)
            if not ready or state.status in {Status.REMOVING, Status.DEAD}:
                self._unfinished.append(container)
            elif state.status is Status.RESTARTING:
                await self._end_unacknowledged(container)
                self._restarting.append(container)
            elif state.alive:
                if await self._reconnect(container):
                    if container.pidfd is not None:
                        running[container.id] = container.pidfd.fileno()
                else:
                    self._ended.append(container)
            else:
                await self._end_unacknowledged(container)
        return running

    async def _end_unacknowledged(self, container: Container) -> None:
        """End a container whose start the engine did not live to record: it was never acknowledged (faults.md R3)."""
        shim = connect(self._state_dir(container.id))
        if shim is None:
            return
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await shim.signal(signal.SIGKILL)
                await shim.ended
        except (OrlopError, TimeoutError) as error:
            _LOG.warning("shim of %s does not answer: %s", container.id, error)
        finally:
            shim.close()

    async def _reconnect(self, container: Container) -> bool:
        if container.state.boot != self._boot:
            return False
        shim = connect(self._state_dir(container.id))
        if shim is None:
            self._find_init(container)
            return False
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await shim.status()
                started = await asyncio.shield(shim.started)
        except (OrlopError, TimeoutError) as error:
            _LOG.warning("shim of %s does not answer: %s", container.id, error)
            shim.close()
            self._find_init(container)
            return False
        container.shim, container.pidfd = shim, started.pidfd
        self._adopted(container)
        return True

    def _find_init(self, container: Container) -> None:
        """Take hold of an init that may outlive its shim; the pid is checked against its start time."""
        state = container.state
        with contextlib.suppress(OSError, ValueError, IndexError):
            pidfd = os.pidfd_open(state.pid)
            with open(f"/proc/{state.pid}/stat", "rb") as file:
                start = int(file.read().rpartition(b")")[2].split()[19])
            if start == state.start_time:
                container.pidfd = OwnedFd(pidfd)
            else:
                os.close(pidfd)

    async def resume(self) -> None:
        """Finish what was begun, record what ended, and apply the restart policies."""
        self._remover.bury_remains()
        for container in self._unfinished:
            try:
                self._remover.finish(container)
            except (OSError, OrlopError):
                # One container that cannot be removed must not keep the engine from starting (faults.md R25).
                _LOG.exception("cannot remove %s", container.id)
        for container in self._directory:
            if container.shim is not None:
                self._endings.watch(container)
        for container in self._ended:
            self._endings.finish(container, await self._endings.lost(container))
        self._sweep()
        for container in self._restarting:
            self._endings.resume_restart(container)
        for container in self._directory:
            self._start_at_boot(container)

    def _sweep(self) -> None:
        """Remove the state directories of what has ended without an engine: execs, and starts never acknowledged."""
        try:
            names = os.listdir(os.path.dirname(self._state_dir("0")))
        except FileNotFoundError:
            return
        for name in names:
            container = self._directory.find(name)
            if container is not None and container.alive:
                continue
            shim = connect(self._state_dir(name)) if container is None else None
            if shim is None:
                remove_flat(self._state_dir(name))
            else:  # an exec goes on without us; its client may still be there
                self._endings.spawn(self._outlive(shim, self._state_dir(name)))

    @staticmethod
    async def _outlive(shim: ShimConnection, state_dir: str) -> None:
        try:
            await shim.ended
            remove_flat(state_dir)
        finally:
            shim.close()

    def _start_at_boot(self, container: Container) -> None:
        """``always`` comes back after a reboot even if the user had stopped it (as dockerd)."""
        policy = container.definition.host.restart_policy.name
        state = container.state
        if policy == "always" and state.status is Status.EXITED and state.boot != self._boot and state.boot:
            self._endings.resume_restart(container)
        elif container.definition.host.auto_remove and state.status is Status.EXITED and not container.removing:
            container.removing = True
            self._endings.spawn(self._remover.remove_automatically(container))
