"""A container that an ordinary user makes, in a user namespace of which he is root.

The kernel lets him map his own user and group; more only through the set-user-id programs newuidmap(1) and
newgidmap(1), which know what subuid(5) and subgid(5) grant him (threats.md I1). Everything else init does itself, with
the capabilities that it has inside.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.runtime.id_mapping import write_map
from orlop.runtime.security import apply
from orlop.spec.oci import Resources
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.runtime.security.apply import PreparedPrivileges
    from orlop.spec.oci import Config, IdMapping, Process


def require_possible(config: Config) -> None:
    """Refuse what an ordinary user cannot have, in runc's words.

    Raises:
        InvalidParameterError: no user namespace of its own, or nothing mapped in it.
    """
    namespace = config.linux.namespace("user")
    if namespace is None:
        raise InvalidParameterError("rootless container requires user namespaces")
    if namespace.path:
        return
    for mappings, what in ((config.linux.uid_mappings, "UID"), (config.linux.gid_mappings, "GID")):
        if not mappings:
            raise InvalidParameterError(f"rootless containers requires at least one {what} mapping")


def wants_no_cgroup(config: Config) -> bool:
    """Whether nothing is asked of a cgroup, so that there need not be one. Devices are guarded by being unmakeable."""
    return not config.linux.cgroups_path and replace(config.linux.resources, devices=()) == Resources()


def prepare(process: Process, config: Config) -> PreparedPrivileges:
    """See ``security.apply.prepare``."""
    return replace(apply.prepare(process, config.linux.seccomp, rootless=True), keeps_groups=keeps_groups(config))


def keeps_groups(config: Config) -> bool:
    """Whether setgroups(2) is denied: who maps one group only could drop one that is there to deny (CVE-2014-8989)."""
    return len(config.linux.gid_mappings) == 1 and config.linux.gid_mappings[0].size == 1


def groups_are_denied() -> bool:
    """Whether whoever made the user namespace that we are in denied setgroups(2) there, and in all below."""
    with open("/proc/self/setgroups", encoding="ascii") as file:
        return file.read().strip() == "deny"


def map_ids(pid: int, config: Config) -> None:
    """Map the ids of a new user namespace.

    Raises:
        UnavailableError: more than one's own id, and no newuidmap or newgidmap.
        SystemFailureError: not granted.
    """
    if keeps_groups(config):
        fd = os.open(f"/proc/{pid}/setgroups", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"deny")
        finally:
            os.close(fd)
    _map(pid, "uid_map", config.linux.uid_mappings, own=os.geteuid())
    _map(pid, "gid_map", config.linux.gid_mappings, own=os.getegid())


def _map(pid: int, name: str, mappings: Sequence[IdMapping], *, own: int) -> None:
    if len(mappings) == 1 and mappings[0].size == 1 and mappings[0].host_id == own:
        write_map(pid, name, mappings)
        return
    from orlop.primitives import commands  # loading.load_for knows

    program = f"new{name.replace('_', '')}"
    numbers = [str(number) for m in mappings for number in (m.container_id, m.host_id, m.size)]
    done = commands.run([program, str(pid), *numbers])
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise SystemFailureError(f"unable to map ids: {reason.removeprefix(program + ': ')}: {program}")
