"""The live handle of one container."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.engine.containers.pending_clients import PendingClients
from orlop.engine.containers.state import Status

if TYPE_CHECKING:
    from orlop.engine.containers.health import HealthMonitor
    from orlop.engine.containers.records import Definition
    from orlop.engine.containers.state import State
    from orlop.engine.shims import ShimConnection
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.json import JsonObject


@dataclass(slots=True, eq=False)
class Container:
    """What the engine holds of a container while it exists.

    Attributes:
        definition: settled at creation.
        state: replaced through ``Directory.set_state`` only.
        lock: held over each operation that changes the state.
        shim: the control channel while the container runs.
        pidfd: of init while it runs.
        config: OCI configuration of the current run: execs take namespaces and seccomp from it.
        pending: clients attached before the start.
        health: its monitor while it runs.
        restart: the task that waits out the restart policy's back-off.
        ending: the task that waits for the shim's end.
        restart_count: Docker's RestartCount.
        stop_requested: a stop or kill by the user is under way.
        removing: an auto-remove or ``rm`` has begun.
        held: how many requests to restart it are under way: until they are done its end is not a reason to remove it.
        execs: ids of the exec sessions, oldest first.
        private_env: variables of the next start that are in no record: a build's secrets.
    """

    definition: Definition
    state: State
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    shim: ShimConnection | None = None
    pidfd: OwnedFd | None = None
    config: JsonObject = field(default_factory=dict)
    pending: PendingClients = field(default_factory=PendingClients)
    health: HealthMonitor | None = None
    restart: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    stop_requested: bool = False
    removing: bool = False
    held: int = 0
    removed: bool = False
    execs: list[str] = field(default_factory=list)
    private_env: tuple[str, ...] = ()
    _exits: list[asyncio.Future[State]] = field(default_factory=list)
    _removals: list[asyncio.Future[State]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self.definition.id

    @property
    def name(self) -> str:
        """The name, without the slash."""
        return self.definition.name

    @property
    def alive(self) -> bool:
        """Whether its process exists."""
        return self.state.alive

    def attributes(self, **more: str) -> dict[str, str]:
        """Return what Docker's events say about a container: labels, image and name."""
        return {
            **(self.definition.config.labels or {}),
            "image": self.definition.image_name,
            "name": self.name,
            **more,
        }

    def next_exit(self) -> asyncio.Future[State]:
        """Return a future of the state after the next end of the program (or the removal)."""
        return self._future(self._exits)

    def removal(self) -> asyncio.Future[State]:
        """Return a future of the last state, resolved when the container is gone."""
        return self._future(self._removals)

    def _future(self, waiters: list[asyncio.Future[State]]) -> asyncio.Future[State]:
        future: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        future.add_done_callback(lambda done: waiters.remove(done) if done in waiters else None)
        return future

    def notify_exit(self) -> None:
        """Wake those who wait for the end of the program."""
        for future in tuple(self._exits):
            if not future.done():
                future.set_result(self.state)

    def notify_removed(self) -> None:
        """Wake everybody: nothing will happen any more."""
        self.removed = True
        self.notify_exit()
        for future in tuple(self._removals):
            if not future.done():
                future.set_result(self.state)

    @property
    def restarting(self) -> bool:
        """Whether the restart policy is waiting."""
        return self.state.status is Status.RESTARTING
