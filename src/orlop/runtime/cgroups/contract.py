"""What a container's cgroup can do, on either version. Types only: nobody imports it to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orlop.spec.json import JsonObject
    from orlop.spec.oci import Resources


class OomEvents(Protocol):
    """Tells that the kernel's OOM killer acted in a cgroup."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when something happened; always the same."""

    def descriptors(self) -> tuple[int, ...]:
        """Return what another process needs to go on with the watch (``adopt_oom_events``); none: nothing to watch."""

    def drain(self) -> None:
        """Read what made it readable."""

    def killed(self) -> bool:
        """Whether a process of the cgroup was OOM-killed since it exists. The event itself may be only pressure."""

    def close(self) -> None:
        """Close the descriptors."""


class CgroupSet(Protocol):
    """One container's cgroup: a directory in every v1 hierarchy, or one in the unified hierarchy.

    Owns the descriptors that joining needs until :meth:`close`; the directories outlive it until :meth:`remove`.

    Attributes:
        path: below the hierarchies' roots, absolute.
        reference: what ``open_cgroup`` opens it by again: the path, or ``slice:prefix:name``.
        version: 1 or 2.
    """

    path: str
    reference: str
    version: int

    @property
    def join_fds(self) -> tuple[int, ...]:
        """Descriptors that :meth:`join` writes to; they must survive ``close_range`` in the child."""

    @property
    def clone_fd(self) -> int | None:
        """Directory for ``clone3(CLONE_INTO_CGROUP)``; None where there is no unified hierarchy.

        On a hybrid machine both are used: this for the unified hierarchy, :meth:`join` for the others.
        """

    def join(self, *, cloned: bool) -> None:
        """Move the calling, single-threaded process in, before it runs anything of the container's (threats.md A14).

        Unshare the cgroup namespace after it, or the namespace's root is the old cgroup.

        Args:
            cloned: the process was made by ``clone3`` with ``clone_fd``, and has closed every descriptor but
                ``join_fds`` (``close_range``): ``clone_fd`` is forgotten, not closed.
        """

    def close(self) -> None:
        """Close the descriptors for good; a second call does nothing. Everything but joining still works."""

    def oom_events(self) -> OomEvents:
        """Return a new watch; the caller closes it."""

    def pids(self) -> list[int]:
        """Return the processes in the cgroup and below, in no order."""

    def kill(self) -> None:
        """Kill every process in it, also those being forked, and wait until it is empty.

        Raises:
            SystemFailureError: something was still there after two seconds.
        """

    def freeze(self) -> None:
        """Stop every process; returns when all are stopped. Raises SystemFailureError, OSError: it is gone."""

    def thaw(self) -> None:
        """Let them run again; nothing when it is gone."""

    def frozen(self) -> bool:
        """Whether it is frozen."""

    def stats(self) -> JsonObject:
        """Return ``cpu_stats``, ``memory_stats``, ``pids_stats`` and ``blkio_stats`` as in Docker's API."""

    def pressure(self) -> JsonObject:
        """Return how long tasks waited for ``cpu``, ``memory`` and ``io`` (``pressure.read_pressure``)."""

    def update(self, resources: Resources) -> None:
        """Change limits; what ``resources`` does not mention stays. Raises SystemFailureError, UnsupportedError."""

    def remove(self) -> None:
        """Remove the directories, and those that the container made below; missing ones are fine.

        Raises:
            SystemFailureError: a process was still in it after two seconds.
        """

    def directories(self) -> dict[str, str]:
        """Return the host directory by the hierarchy's name below ``/sys/fs/cgroup``; ``""`` for the unified one."""
