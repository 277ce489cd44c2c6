"""The end of a container's program: its record, restart policy, auto-remove."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Protocol

from orlop.engine.containers.announcing import announce_release
from orlop.engine.containers.state import Status
from orlop.engine.containers.trees import remove_flat
from orlop.engine.shims import read_exit_record
from orlop.errors import OrlopError
from orlop.spec.launch import ExitRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.settings import Settings
    from orlop.engine.events import Events
    from orlop.network.sandbox import Sandbox

_log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_MOST, BACKOFF_RESET = 0.1, 60.0, 10.0
_KILLED, _UNKNOWN = 137, 255
# How long the kernel may take to reap an init whose shim is gone (PR_SET_PDEATHSIG kills it).
_ORPHAN_SECONDS = 5.0
_NANO = 1_000_000_000
_RECORD_AGAIN = 2.0  # seconds between two tries on a full disk


class Release(Protocol):
    """What the network has to undo."""

    def release(self, container_id: str) -> None:
        """Undo a container's sandbox in the background."""

    def sandbox(self, container_id: str) -> Sandbox | None:
        """Return the sandbox, while there is one."""


class Endings:
    """Watches shims and does what follows from their end.

    Attributes:
        start: starts a container by policy; set once by the service, because starting needs this object.
        remove: removes an ``--rm`` container; likewise.
        ended: called after each end, with the container's id: exec sessions end with it.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        network: Release,
        events: Events,
        reap: Callable[[Container], None],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._network = network
        self._events = events
        self._reap = reap
        self.start: Callable[[Container], Awaitable[None]] = _unset
        self.remove: Callable[[Container], Awaitable[None]] = _unset
        self._tasks: set[asyncio.Task[None]] = set()
        self._unrecorded: set[str] = set()  # ids of containers whose states wait for room
        self._closing = False

    def close(self) -> None:
        """Stop watching; containers run on."""
        self._closing = True
        for task in tuple(self._tasks):
            task.cancel()

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run something that nobody waits for; errors are the loop's exception handler's."""
        task = asyncio.ensure_future(_as_coroutine(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def watch(self, container: Container) -> None:
        """Wait for the end of a running container's shim."""
        if container.shim is not None:
            container.shim.oom = lambda: self._tell_oom(container)
        container.ending = self.spawn(self._watch(container))

    def _tell_oom(self, container: Container) -> None:
        self._events.publish("container", "oom", container.id, container.attributes())

    async def _watch(self, container: Container) -> None:
        record = None if container.shim is None else await asyncio.shield(container.shim.ended)
        if record is None:
            if self._closing:
                return
            record = await self.lost(container)
        self.finish(container, record)

    async def lost(self, container: Container) -> ExitRecord:
        """Determine how a container ended whose shim is gone, and clean up after both."""
        killed = False
        if container.pidfd is not None:
            killed = await _wait_dead(container.pidfd.fileno())
        record = read_exit_record(self._settings.state_dir(container.id))
        await asyncio.get_running_loop().run_in_executor(None, self._reap, container)
        if record is not None:
            return record
        code = _KILLED if killed else _UNKNOWN
        return ExitRecord(code, oom_killed=False, started_at=container.state.started_at, finished_at=time.time_ns())

    def finish(self, container: Container, record: ExitRecord) -> None:
        """Take note of the end; everything that waits for it is woken."""
        if container.shim is not None:
            container.shim.close()
            container.shim = None
        if container.pidfd is not None:
            container.pidfd.close()
            container.pidfd = None
        if container.health is not None:
            container.health.stop()
        announce_release(self._events, container, self._network.sandbox(container.id))
        self._network.release(container.id)
        by_user = container.stop_requested or container.state.stopped
        again = not by_user and self._wants_restart(container, record.exit_code)
        self.note(
            container,
            status=Status.RESTARTING if again else Status.EXITED,
            pid=0,
            start_time=0,
            exit_code=record.exit_code,
            oom_killed=record.oom_killed,
            finished_at=record.finished_at or time.time_ns(),
            stopped=by_user,
        )
        remove_flat(self._settings.state_dir(container.id))
        seconds = max(0, (container.state.finished_at - container.state.started_at) // _NANO)
        attributes = container.attributes(exitCode=str(record.exit_code), execDuration=str(seconds))
        self._events.publish("container", "die", container.id, attributes)
        container.ending = None
        if again:
            container.notify_exit()
            container.restart = self.spawn(self._restart(container))
        elif container.definition.host.auto_remove and not container.removing and not container.held:
            container.removing = True
            container.notify_exit()
            self.spawn(self.remove(container))
        else:
            container.notify_exit()

    def note(self, container: Container, **changes: object) -> None:
        """Change the state to what has happened already: at once, and in the record when there is room for it."""
        if self._directory.take_note(container, **changes) or container.id in self._unrecorded:
            return
        status = container.state.status.value
        _log.warning("cannot record that container %.12s is %s: no space left on device", container.id, status)
        self._unrecorded.add(container.id)
        self.spawn(self._record(container))

    async def _record(self, container: Container) -> None:
        while True:
            await asyncio.sleep(_RECORD_AGAIN)
            if container.removed or self._directory.record_state(container):
                break
        self._unrecorded.discard(container.id)

    @staticmethod
    def _wants_restart(container: Container, exit_code: int) -> bool:
        policy = container.definition.host.restart_policy
        if policy.name in {"always", "unless-stopped"}:
            return True
        if policy.name != "on-failure" or exit_code == 0:
            return False
        return policy.maximum_retry_count == 0 or container.state.restarts < policy.maximum_retry_count

    async def _restart(self, container: Container) -> None:
        while True:
            ran = (container.state.finished_at - container.state.started_at) / _NANO
            step = 0 if ran >= BACKOFF_RESET else container.state.restarts
            await asyncio.sleep(min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(step, 20)))
            async with container.lock:
                if container.state.status is not Status.RESTARTING:
                    return
                self.note(container, restarts=container.state.restarts + 1)
                try:
                    await self.start(container)
                except OrlopError:
                    # The failed start left the state at exited with its error; Docker tries again.
                    if not self._wants_restart(container, container.state.exit_code):
                        return
                    self.note(container, status=Status.RESTARTING)
                else:
                    return

    def resume_restart(self, container: Container) -> None:
        """Go on waiting for a restart that an earlier engine had promised."""
        if container.state.status is not Status.RESTARTING:
            self._directory.set_state(container, status=Status.RESTARTING, stopped=False)
        container.restart = self.spawn(self._restart(container))

    async def settle_restart(self, container: Container) -> None:
        """Let a start by policy that is under way come to its end: cancelled half-way it would leave an orphan."""
        if container.restarting and container.lock.locked():
            async with container.lock:
                pass

    def cancel_restart(self, container: Container) -> bool:
        """Give up a pending restart; whether there was one."""
        if container.state.status is not Status.RESTARTING:
            return False
        if container.restart is not None:
            container.restart.cancel()
            container.restart = None
        self._directory.set_state(container, status=Status.EXITED, stopped=True)
        return True


async def _unset(container: Container) -> None:
    raise OrlopError(f"not wired: {container.id}")


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


async def _wait_dead(pidfd: int) -> bool:
    """Wait until the process is gone. Returns whether it was seen to end (or had ended)."""
    loop = asyncio.get_running_loop()
    duplicate = os.dup(pidfd)
    dead = asyncio.Event()
    loop.add_reader(duplicate, dead.set)
    try:
        async with asyncio.timeout(_ORPHAN_SECONDS):
            await dead.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(duplicate)
        os.close(duplicate)
    return True
