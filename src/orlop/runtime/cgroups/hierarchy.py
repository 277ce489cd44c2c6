"""Which cgroup hierarchies this machine has, and where they are mounted.

Three layouts exist (systemd's names): *legacy*, one or more v1 hierarchies; *hybrid*, the same with an additional v2
hierarchy that has no controllers; *unified*, v2 alone.
"""

from __future__ import annotations

import os

from orlop.errors import UnavailableError, UnsupportedError
from orlop.spec.record import dataclass


@dataclass(frozen=True)
class Hierarchy:
    """One v1 hierarchy: where it is mounted and what it controls (``name=systemd`` for a named one)."""

    directory: str
    controllers: tuple[str, ...]


@dataclass(frozen=True)
class Hierarchies:
    """All hierarchies. Paths only, so it survives forks.

    Attributes:
        v1: the v1 hierarchies; empty on a unified machine.
        unified: where cgroup v2 is mounted, or None.
        controllers: names of all controllers that limits can be set with.
    """

    v1: tuple[Hierarchy, ...]
    unified: str | None
    controllers: frozenset[str]

    @property
    def version(self) -> int:
        """The version whose files hold the limits: 1 or 2."""
        return 1 if self.v1 else 2

    @property
    def mode(self) -> str:
        """``legacy``, ``hybrid`` or ``unified``."""
        if not self.v1:
            return "unified"
        return "legacy" if self.unified is None else "hybrid"

    def directory(self, controller: str) -> str | None:
        """Return the root directory of the v1 hierarchy of ``controller``."""
        for hierarchy in self.v1:
            if controller in hierarchy.controllers:
                return hierarchy.directory
        return None


def require_systemd(hierarchies: Hierarchies) -> None:
    """Check that the systemd driver can work, as sd_booted(3) does.

    Raises:
        UnavailableError: systemd is not the first process; runc's words.
        UnsupportedError: cgroup v1, where systemd gives every device back at each reload.
    """
    if not os.path.isdir("/run/systemd/system"):
        raise UnavailableError("systemd not running on this host, cannot use systemd cgroups manager")
    if hierarchies.version != 2:
        raise UnsupportedError("the systemd cgroup driver needs cgroup v2")


def detect(*, proc: str = "/proc") -> Hierarchies:
    """Read ``mountinfo`` and ``cgroup`` of this process, once.

    Args:
        proc: the proc file system, another one in tests.

    Raises:
        UnavailableError: no cgroup file system is mounted.
    """
    with open(f"{proc}/self/cgroup", encoding="utf-8") as file:
        named = [line.split(":", 2)[1] for line in file if line.count(":") >= 2]
    with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        v1, unified = _mounted(file.read(), {tuple(text.split(",")) for text in named if text})
    if v1:
        controllers = frozenset(name for hierarchy in v1 for name in hierarchy.controllers if "=" not in name)
        return Hierarchies(v1, unified, controllers)
    if unified is None:
        raise UnavailableError("no cgroup file system is mounted")
    with open(f"{unified}/cgroup.controllers", encoding="ascii") as file:
        return Hierarchies((), unified, frozenset(file.read().split()))


def _mounted(mountinfo: str, sets: set[tuple[str, ...]]) -> tuple[tuple[Hierarchy, ...], str | None]:
    """Return the v1 hierarchies and the v2 mount point; the first mount of each wins."""
    v1: dict[tuple[str, ...], Hierarchy] = {}
    unified: str | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            continue
        directory = _unescape(fields[4])
        if tail[0] == "cgroup2":
            unified = unified or directory
        elif tail[0] == "cgroup":
            options = set(tail[2].split(","))
            for controllers in sets:
                if options.issuperset(controllers):
                    v1.setdefault(controllers, Hierarchy(directory, controllers))
    return tuple(sorted(v1.values(), key=lambda hierarchy: hierarchy.directory)), unified


def _unescape(text: str) -> str:
    """Undo the octal escapes of proc_pid_mountinfo(5): white space and the backslash."""
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] if _is_octal(part[:3]) else f"\\{part}" for part in rest)


def _is_octal(text: str) -> bool:
    return len(text) == 3 and set("01234567").issuperset(text)
