"""Where a container's cgroup is, from ``linux.cgroupsPath``."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.charset import WORD, consists_of

DEFAULT_PARENT = "/orlop"
_ID = WORD | frozenset(".+-")
# a colon separates the fields of /proc/<pid>/cgroup, and everything below " " ends lines somewhere
_FORBIDDEN = frozenset(map(chr, range(0x21))) | frozenset("/:\x7f")
_LIMIT = 2048


def is_scope(path: str) -> bool:
    """Whether a path is one of the systemd driver, ``slice:prefix:name``: no other has a colon."""
    return path.count(":") == 2 and "/" not in path


def normalise_path(
    cgroups_path: str, *, container_id: str, systemd: bool | None = None, user: int | None = None
) -> str:
    """Return the cgroup's absolute path below every hierarchy's root, or ``slice:prefix:name``.

    The empty string gives ``/orlop/<id>``, or ``system.slice:orlop:<id>``.

    Args:
        cgroups_path: as configured.
        container_id: names the cgroup of the empty string.
        user: whose own systemd it is, for the systemd driver.
        systemd: which driver is in use; None takes the one whose form the path has, for a container that exists.

    Raises:
        InvalidParameterError: ``..``, the root itself, or characters that no cgroup has (threats.md C4).
        UnsupportedError: a path of the systemd driver, which is not in use.
    """
    if not consists_of(container_id, _ID, 1, 255) or container_id in (".", ".."):
        raise InvalidParameterError(f"invalid container id: {container_id!r:.80}")
    if systemd or (systemd is None and is_scope(cgroups_path)):
        from orlop.runtime.cgroups.systemd.scope import parse_scope

        return parse_scope(cgroups_path, container_id=container_id, user=user).reference
    if not cgroups_path:
        return f"{DEFAULT_PARENT}/{container_id}"
    if is_scope(cgroups_path):
        raise UnsupportedError(f"the systemd cgroup driver is not in use: {cgroups_path:.200}")
    parts = [part for part in cgroups_path.split("/") if part not in ("", ".")]
    if not parts or len(cgroups_path) > _LIMIT:
        raise InvalidParameterError(f"invalid cgroup path: {cgroups_path!r:.80}")
    for part in parts:
        if part == ".." or not 1 <= len(part) <= 255 or not _FORBIDDEN.isdisjoint(part):
            raise InvalidParameterError(f"invalid cgroup path: {cgroups_path!r:.200}")
    return "/" + "/".join(parts)
