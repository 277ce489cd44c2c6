"""Making and opening a container's cgroup, on either version, whose module is loaded when it is asked for."""

from __future__ import annotations

import errno

from orlop.errors import SystemFailureError
from orlop.runtime.cgroups.path import is_scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups.contract import CgroupSet
    from orlop.runtime.cgroups.hierarchy import Hierarchies
    from orlop.runtime.cgroups.systemd.driver import ScopeCgroup
    from orlop.runtime.cgroups.v1 import CgroupV1
    from orlop.runtime.cgroups.v2 import CgroupV2
    from orlop.spec.oci import Resources

_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def create_cgroup(hierarchies: Hierarchies, path: str, resources: Resources) -> CgroupSet:
    """Make the cgroup ``path`` (of ``normalise_path``) with its limits; on error nothing of it is left.

    Raises:
        ConflictError: there is one with processes in it.
        UnsupportedError: this kernel has no such limit.
        UnavailableError: systemd cannot be reached.
        SystemFailureError: the kernel or systemd refused a value.
    """
    if is_scope(path):
        return _scopes().create(hierarchies, path, resources)
    if hierarchies.version == 1:
        return _v1().create(hierarchies, path, resources)
    return _v2().create(hierarchies, path, resources)


def create_cgroup_if_permitted(hierarchies: Hierarchies, path: str, resources: Resources) -> CgroupSet:
    """Make the cgroup like :func:`create_cgroup`, or none where this user may not."""
    try:
        return create_cgroup(hierarchies, path, resources)
    except (SystemFailureError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _FORBIDDEN:
            raise
    from orlop.runtime.cgroups.absent import AbsentCgroup

    return AbsentCgroup()


def open_cgroup(hierarchies: Hierarchies, path: str) -> CgroupSet:
    """Return an existing cgroup, to join, watch, change or remove it; nothing is opened before it is needed.

    The empty path is that of a container without a cgroup.
    """
    if not path:
        from orlop.runtime.cgroups.absent import AbsentCgroup

        return AbsentCgroup()
    if is_scope(path):
        return _scopes()(hierarchies, path)
    if hierarchies.version == 1:
        return _v1()(hierarchies, path)
    return _v2()(hierarchies, path)


def _v1() -> type[CgroupV1]:
    from orlop.runtime.cgroups.v1 import CgroupV1  # loading.load_for knows which version there is

    return CgroupV1


def _v2() -> type[CgroupV2]:
    from orlop.runtime.cgroups.v2 import CgroupV2  # likewise

    return CgroupV2


def _scopes() -> type[ScopeCgroup]:
    from orlop.runtime.cgroups.systemd.driver import ScopeCgroup  # likewise

    return ScopeCgroup
