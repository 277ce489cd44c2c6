"""Signals, stop, pause: what is done to a running container.

A container that is frozen for the engine's own sake (commit) has a mark beside its shim's socket, from before it is
frozen until it runs again, so that an engine that dies meanwhile is not the reason why it stays frozen::

    <exec-root>/shims/<id>/held
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from typing import TYPE_CHECKING, Protocol

from orlop.engine.containers.signals import parse_signal
from orlop.engine.containers.state import Status
from orlop.errors import ConflictError, InvalidParameterError, NotModifiedError, OrlopError, SystemFailureError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.ending import Endings
    from orlop.engine.containers.state import State
    from orlop.engine.events import Events

DEFAULT_STOP_SECONDS = 10
_KILL_SECONDS = 10
_HELD = "held"
_LOG = logging.getLogger(__name__)


class Freezer(Protocol):
    """The part of a container's cgroups that pausing needs."""

    def freeze(self) -> None:
        """Stop every process inside."""

    def thaw(self) -> None:
        """Let them run."""

    def frozen(self) -> bool:
        """Whether they were stopped."""

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
        state_dir: Callable[[str], str],
    ) -> None:
        self._directory = directory
        self._events = events
        self._endings = endings
        self._cgroups = cgroups
        self._state_dir = state_dir
        self._killing: set[str] = set()

    async def stop(self, container: Container, *, signal_name: str = "", timeout: int | None = None) -> None:
        """Ask the program to end, and kill it after ``timeout`` seconds (-1: never).

        Raises:
            NotModifiedError: it does not run.
            InvalidParameterError: there is no such signal.
        """
        try:
            number = parse_signal(signal_name or container.definition.config.stop_signal or "SIGTERM")
        except InvalidParameterError as error:
            raise InvalidParameterError(f"cannot stop container: {container.name}: {error}") from error
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
            raise ConflictError(f"container {container.id} is not running")
        cgroups = self._cgroups(container)
        try:
            await asyncio.to_thread(cgroups.freeze)
            if container.id in self._killing:  # the frozen cannot die
                cgroups.thaw()
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENODEV}:
                raise
            raise ConflictError(f"container {container.id} is not running") from error
        finally:
            cgroups.close()
        if not container.alive or container.id in self._killing:
            raise ConflictError(f"container {container.id} is not running")
        self._directory.set_state(container, status=Status.PAUSED)
        self._events.publish("container", "pause", container.id, container.attributes())

    def unpause(self, container: Container) -> None:
        """Thaw. Raises ConflictError: it is not paused."""
        if container.state.status is not Status.PAUSED:
            raise ConflictError(f"Container {container.id} is not paused")
        self._thaw(container)
        self._events.publish("container", "unpause", container.id, container.attributes())

    @contextlib.asynccontextmanager
    async def held(self, container: Container) -> AsyncIterator[None]:
        """Keep the container frozen; not one that the user froze, or thaws meanwhile. Raises as :meth:`pause`."""
        async with container.lock:
            self._mark(container)
            try:
                await self.pause(container)
            except BaseException:
                self._unmark(container)
                raise
        try:
            yield
        finally:
            async with container.lock:
                if self._is_held(container) and container.state.status is Status.PAUSED:
                    self.unpause(container)

    def release(self, container: Container) -> None:
        """Settle what an engine before this one had begun: only what it called paused is frozen. Call at start."""
        try:
            cgroups = self._cgroups(container)
            try:
                if container.state.status is Status.PAUSED and cgroups.frozen() and not self._is_held(container):
                    return
                cgroups.thaw()
            finally:
                cgroups.close()
        except (OSError, OrlopError) as error:
            _LOG.warning("cannot thaw %s: %s", container.id, error)
        else:
            self._thawed(container)

    def _mark(self, container: Container) -> None:
        try:
            os.close(os.open(self._mark_path(container), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise SystemFailureError(f"freeze {container.id[:12]}: {(error.strerror or '').lower()}") from error

    def _unmark(self, container: Container) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._mark_path(container))

    def _is_held(self, container: Container) -> bool:
        return os.path.exists(self._mark_path(container))

    def _mark_path(self, container: Container) -> str:
        return f"{self._state_dir(container.id)}/{_HELD}"

    def _thaw(self, container: Container) -> None:
        cgroups = self._cgroups(container)
        try:
            cgroups.thaw()
        finally:
            cgroups.close()
        self._thawed(container)

    def _thawed(self, container: Container) -> None:
        if container.state.status is Status.PAUSED:
            self._directory.set_state(container, status=Status.RUNNING)
        self._unmark(container)
