"""Where a container's cgroup is, from ``linux.cgroupsPath``."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.charset import ALPHANUMERIC, WORD, consists_of

DEFAULT_PARENT = "/orlop"
_ID = WORD | frozenset(".+-")
# a colon separates the fields of /proc/<pid>/cgroup, and everything below " " ends lines somewhere
_FORBIDDEN = frozenset(map(chr, range(0x21))) | frozenset("/:\x7f")
_LIMIT = 2048


def normalise_path(cgroups_path: str, *, container_id: str) -> str:
    """Return the cgroup's absolute path below every hierarchy's root; the empty string gives ``/orlop/<id>``.

    Raises:
        InvalidParameterError: ``..``, the root itself, or characters that no cgroup has (threats.md C4).
        UnsupportedError: a path of the systemd driver, ``slice:prefix:name``.
    """
    if container_id[:1] not in ALPHANUMERIC or not consists_of(container_id, _ID, 1, 255):
        raise InvalidParameterError(f"invalid container id: {container_id!r:.80}")
    if not cgroups_path:
        return f"{DEFAULT_PARENT}/{container_id}"
    if cgroups_path.count(":") == 2 and "/" not in cgroups_path:
        raise UnsupportedError(f"the systemd cgroup driver is not supported: {cgroups_path:.200}")
    parts = [part for part in cgroups_path.split("/") if part not in ("", ".")]
    if not parts or len(cgroups_path) > _LIMIT:
        raise InvalidParameterError(f"invalid cgroup path: {cgroups_path!r:.80}")
    for part in parts:
        if part == ".." or not 1 <= len(part) <= 255 or not _FORBIDDEN.isdisjoint(part):
            raise InvalidParameterError(f"invalid cgroup path: {cgroups_path!r:.200}")
    return "/" + "/".join(parts)
