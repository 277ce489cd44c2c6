"""Signals, stop, pause: what is done to a running container."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from typing import TYPE_CHECKING, Protocol

from orlop.engine.containers.creation import parse_signal
from orlop.engine.containers.state import Status
from orlop.errors import ConflictError, InvalidParameterError, NotModifiedError, SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.ending import Endings
    from orlop.engine.containers.state import State
    from orlop.engine.events import Events

DEFAULT_STOP_SECONDS = 10
_KILL_SECONDS = 10


class Freezer(Protocol):
    """The part of a container's cgroups that pausing needs."""

    def freeze(self) -> None:
        """Stop every process inside."""

    def thaw(self) -> None:
        """Let them run."""

    def kill(self) -> None:
        """Kill every process inside."""

    def close(self) -> None:
        """Give up the descriptors."""


class Stopper:
    """Ends and pauses programs."""

    def __init__(
        self,
        directory: Directory,
        *,
        events: Events,
        endings: Endings,
        cgroups: Callable[[Container], Freezer],
    ) -> None:
        self._directory = directory
        self._events = events
        self._endings = endings
        self._cgroups = cgroups
        self._killing: set[str] = set()

    async def stop(self, container: Container, *, signal_name: str = "", timeout: int | None = None) -> None:
        """Ask the program to end, and kill it after ``timeout`` seconds (-1: never).

        Raises:
            NotModifiedError: it does not run.
        """
        number = parse_signal(signal_name or container.definition.config.stop_signal or "SIGTERM")
        if timeout is None:
            timeout = container.definition.config.stop_timeout
        if timeout is None:
            timeout = DEFAULT_STOP_SECONDS
        await self._endings.settle_restart(container)
        if self._endings.cancel_restart(container):
            return
        if not container.alive:
            raise NotModifiedError("container is already stopped")
        ended = container.next_exit()
        container.stop_requested = True
        self._send(container, number)
        self._tell_kill(container, number)
        if container.state.status is Status.PAUSED:
            self._thaw(container)
        try:
            async with asyncio.timeout(None if timeout < 0 else timeout):
                await asyncio.shield(ended)
        except TimeoutError:
            self._tell_kill(container, signal.SIGKILL)
            await self._kill_and_wait(container, ended)
        self._events.publish("container", "stop", container.id, container.attributes())

    async def _kill_and_wait(self, container: Container, ended: asyncio.Future[State]) -> None:
        if container.alive:
            self._send(container, signal.SIGKILL)
            if container.state.status is Status.PAUSED:
                self._thaw(container)
        self._killing.add(container.id)
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await asyncio.shield(ended)
        except TimeoutError:
            raise SystemFailureError(
                f"container {container.id[:12]} PID {container.state.pid} is zombie and can not"
                " be killed. Use the --init option when creating containers to run an init inside"
                " the container that forwards signals and reaps processes"
            ) from None
        finally:
            self._killing.discard(container.id)

    async def kill(self, container: Container, signal_name: str = "") -> None:
        """Send a signal (SIGKILL); a killing one is waited for.

        Raises:
            ConflictError: it does not run.
        """
        try:
            number = parse_signal(signal_name or "SIGKILL")
        except InvalidParameterError as error:
            raise InvalidParameterError(f"cannot kill container: {container.name}: {error}") from error
        await self._endings.settle_restart(container)
        if not container.alive:
            if number == signal.SIGKILL and self._endings.cancel_restart(container):
                return
            raise ConflictError(f"cannot kill container: {container.name}: container {container.id} is not running")
        stop = parse_signal(container.definition.config.stop_signal or "SIGTERM")
        ended = container.next_exit()
        if number in {signal.SIGKILL, stop}:
            container.stop_requested = True
        self._send(container, number)
        self._tell_kill(container, number)
        if number == signal.SIGKILL:
            await self._kill_and_wait(container, ended)
        else:
            ended.cancel()

    def _tell_kill(self, container: Container, number: int) -> None:
        attributes = container.attributes(signal=str(int(number)))
        self._events.publish("container", "kill", container.id, attributes)

    def _send(self, container: Container, number: int) -> None:
        if container.pidfd is None:
            raise ConflictError(f"container {container.id} is not running")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(container.pidfd.fileno(), number)

    async def pause(self, container: Container) -> None:
        """Freeze. Raises ConflictError: it does not run (any more), or is paused.

        A process that the kernel holds fast delays the freezing, so a thread waits for it.
        """
        if container.state.status is Status.PAUSED:
            raise ConflictError(f"Container {container.id} is already paused")
        if not container.alive:
            raise ConflictError(f"Container {container.id} is not running")
        cgroups = self._cgroups(container)
        try:
            await asyncio.to_thread(cgroups.freeze)
            if container.id in self._killing:  # the frozen cannot die
                cgroups.thaw()
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENODEV}:
                raise
        finally:
            cgroups.close()
        if not container.alive or container.id in self._killing:
            raise ConflictError(f"Container {container.id} is not running")
        self._directory.set_state(container, status=Status.PAUSED)
        self._events.publish("container", "pause", container.id, container.attributes())

    def unpause(self, container: Container) -> None:
        """Thaw. Raises ConflictError: it is not paused."""
        if container.state.status is not Status.PAUSED:
            raise ConflictError(f"Container {container.id} is not paused")
        self._thaw(container)
        self._events.publish("container", "unpause", container.id, container.attributes())

    def _thaw(self, container: Container) -> None:
        cgroups = self._cgroups(container)
        try:
            cgroups.thaw()
        finally:
            cgroups.close()
        if container.state.status is Status.PAUSED:
            self._directory.set_state(container, status=Status.RUNNING)
