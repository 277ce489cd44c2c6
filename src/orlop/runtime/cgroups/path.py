"""Where a container's cgroup is, from ``linux.cgroupsPath``."""

from __future__ import annotations

import re

from orlop.errors import InvalidParameterError, UnsupportedError

DEFAULT_PARENT = "/orlop"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}")
# a colon separates the fields of /proc/<pid>/cgroup, and everything below " " ends lines somewhere
_COMPONENT = re.compile(r"[^/:\x00-\x20\x7f]{1,255}")
_LIMIT = 2048


def normalise_path(cgroups_path: str, *, container_id: str) -> str:
    """Return the cgroup's absolute path below every hierarchy's root; the empty string gives ``/orlop/<id>``.

    Raises:
        InvalidParameterError: ``..``, the root itself, or characters that no cgroup has (threats.md C4).
        UnsupportedError: a path of the systemd driver, ``slice:prefix:name``.
    """
    if _ID.fullmatch(container_id) is None:
        raise InvalidParameterError(f"invalid container id: {container_id!r:.80}")
    if not cgroups_path:
        return f"{DEFAULT_PARENT}/{container_id}"
    if cgroups_path.count(":") == 2 and "/" not in cgroups_path:
        raise UnsupportedError(f"the systemd cgroup driver is not supported: {cgroups_path:.200}")
    parts = [part for part in cgroups_path.split("/") if part not in ("", ".")]
    if not parts or len(cgroups_path) > _LIMIT:
        raise InvalidParameterError(f"invalid cgroup path: {cgroups_path!r:.80}")
    for part in parts:
        if part == ".." or _COMPONENT.fullmatch(part) is None:
            raise InvalidParameterError(f"invalid cgroup path: {cgroups_path!r:.200}")
    return "/" + "/".join(parts)
