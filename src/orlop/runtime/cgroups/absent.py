"""No cgroup at all: a container that an ordinary user makes where no cgroup was handed over to him.

Its processes stay in the user's own cgroup, with whatever limits that has; what needs one of its own is refused.
"""

from __future__ import annotations

from orlop.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.runtime.cgroups.contract import OomEvents
    from orlop.spec.json import JsonObject
    from orlop.spec.oci import Resources


class AbsentCgroup:
    """A ``CgroupSet`` without a directory."""

    path = reference = ""
    version = 0
    join_fds: tuple[int, ...] = ()
    clone_fd = None

    def join(self, *, cloned: bool) -> None:
        """Stay."""

    def close(self) -> None:
        """Nothing is open."""

    def oom_events(self) -> OomEvents:
        """Refuse."""
        _refuse("be watched")

    def pids(self) -> list[int]:
        """Refuse."""
        _refuse("list its processes")

    def kill(self) -> None:
        """Nothing is known to be in it; the processes of a pid namespace end with its init."""

    def freeze(self) -> None:
        """Refuse."""
        _refuse("be paused")

    def thaw(self) -> None:
        """Nothing was frozen."""

    def frozen(self) -> bool:
        """Return False."""
        return False

    def stats(self) -> JsonObject:
        """Refuse."""
        _refuse("have statistics")

    def pressure(self) -> JsonObject:
        """Refuse."""
        _refuse("have statistics")

    def update(self, resources: Resources) -> None:  # noqa: ARG002 - the protocol's
        """Refuse."""
        _refuse("have limits")

    def remove(self) -> None:
        """Nothing was made."""

    def directories(self) -> dict[str, str]:
        """Return nothing: ``/sys/fs/cgroup`` is empty in the container, not the host's (CVE-2023-25809)."""
        return {}


def _refuse(what: str) -> NoReturn:
    raise UnsupportedError(f"container without a cgroup cannot {what} (rootless, and no cgroup was delegated)")
