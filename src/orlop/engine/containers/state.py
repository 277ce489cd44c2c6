"""The states of a container and the one table of what may follow what."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orlop.errors import ConflictError


class Status(enum.Enum):
    """Docker's names."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


_NEXT: dict[Status, frozenset[Status]] = {
    Status.CREATED: frozenset({Status.RUNNING, Status.CREATED, Status.EXITED, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.EXITED, Status.RESTARTING}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING, Status.REMOVING}),
    Status.EXITED: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING, Status.REMOVING}),
    Status.REMOVING: frozenset({Status.DEAD}),
    Status.DEAD: frozenset({Status.REMOVING}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a container stands; replaced as a whole at each change.

    Attributes:
        status: see :class:`Status`.
        pid: of init while it runs, else 0.
        start_time: its start in clock ticks since boot, which makes ``pid`` unambiguous.
        exit_code: of the last run.
        error: text of the last failed start.
        oom_killed: the last run met the OOM killer.
        started_at: nanoseconds since the epoch, 0 for never.
        finished_at: likewise.
        restarts: by the restart policy, since the user last started it.
        stopped: the user asked for the stop: ``unless-stopped`` holds, ``on-failure`` does not apply.
        boot: the kernel's boot id at the last start.
    """

    status: Status = Status.CREATED
    pid: int = 0
    start_time: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0
    restarts: int = 0
    stopped: bool = False
    boot: str = ""

    @property
    def running(self) -> bool:
        """Docker's ``Running``: a process exists, frozen or not, or the policy is about to start one."""
        return self.status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)

    @property
    def alive(self) -> bool:
        """A process exists."""
        return self.status in (Status.RUNNING, Status.PAUSED)


def require_transition(before: Status, after: Status) -> None:
    """Raise ConflictError unless ``after`` may follow ``before``."""
    if after not in _NEXT[before]:
        raise ConflictError(f"container cannot go from {before.value} to {after.value}")
