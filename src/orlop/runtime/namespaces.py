"""Which namespaces a container's init is cloned into, joins, or unshares later; and who its maker is in his own."""

from __future__ import annotations

import os

from orlop.errors import ConflictError, InvalidParameterError, UnsupportedError
from orlop.kernel import process as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import suppress
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.primitives.scope import Cleanup
    from orlop.runtime.container import Creation
    from orlop.spec.oci import Config

# of namespaces that a process is cloned into, or joins all at once by a pidfd; the cgroup's is another matter
CLONE_FLAGS = {
    "mount": k.CLONE_NEWNS,
    "pid": k.CLONE_NEWPID,
    "network": k.CLONE_NEWNET,
    "ipc": k.CLONE_NEWIPC,
    "uts": k.CLONE_NEWUTS,
    "user": k.CLONE_NEWUSER,
    "time": k.CLONE_NEWTIME,
}


@dataclass(frozen=True)
class Caller:
    """Who makes a container, as far as the kernel lets him do more or less for it; the machine's root by default.

    Attributes:
        ordinary: not root. He makes a user namespace first, and has in there what he has not here.
        confined: that, or root of a user namespace, as rootless Podman calls: he makes no device nodes, and cgroups
            only where he was given some.
    """

    ordinary: bool = False
    confined: bool = False


def find_caller() -> Caller:
    """Return whose this process is."""
    ordinary = os.geteuid() != 0
    return Caller(ordinary=ordinary, confined=ordinary or k.in_user_namespace())


ENDED = "container is not running any more: try again"


def choose_namespaces(
    creation: Creation, stack: Cleanup, donor: int | None
) -> tuple[int, Sequence[tuple[int, int]], int]:
    """Return clone3's flags, namespaces for init to join, and flags to unshare after the cgroup was joined."""
    flags, unshare = 0, 0
    joins: list[tuple[int, int]] = []
    config = creation.config
    for namespace in config.linux.namespaces:
        kind, path = namespace.type, namespace.path
        if kind == "network" and creation.netns is not None:
            continue
        if kind == "cgroup" and not path:
            unshare |= k.CLONE_NEWCGROUP
        elif kind == "time" and config.linux.time_offsets:
            from orlop.runtime.time_namespace import enter_for_children

            enter_for_children(config.linux.time_offsets)
        elif not path:
            flags |= CLONE_FLAGS[kind]
        elif kind == "user":
            continue  # the whole creation goes another way then
        else:
            fd = stack.enter_context(OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))).fileno()
            if kind == "mount":
                _check_mount_namespace(config, fd, path)
            if kind == "ipc" and donor is not None:
                joins.append((donor, k.CLONE_NEWIPC))
            elif kind == "pid":
                k.setns(fd, k.CLONE_NEWPID)  # for children only: the caller stays where it is
            else:
                joins.append((fd, k.CLONE_NEWCGROUP if kind == "cgroup" else CLONE_FLAGS[kind]))
    if creation.netns is not None:
        joins.append((creation.netns, k.CLONE_NEWNET))
    if config.linux.namespace("mount") is None:
        raise UnsupportedError("a container without a mount namespace of its own is not supported")
    return flags, joins, unshare


def _check_mount_namespace(config: Config, fd: int, path: str) -> None:
    """Refuse a mount namespace whose root must not be exchanged: pivot_root(2) moves every process in it.

    Raises:
        InvalidParameterError: it is the host's, or the caller's.
        UnsupportedError: in a user namespace, which may mount nothing in it.
    """
    if config.linux.namespace("user") is not None:
        raise UnsupportedError(f"mount namespace by path is not supported with a user namespace: {path}")
    for own in ("/proc/self/ns/mnt", "/proc/1/ns/mnt"):
        with suppress(PermissionError):  # pid 1 may be out of reach (ptrace(2)), and its namespace then is, too
            if os.path.samestat(os.fstat(fd), os.stat(own)):
                raise InvalidParameterError(f"mount namespace is the host's own: {path}")


def join_files(pid: int, pidfd: int) -> bool:
    """Join a running container's mount namespace, and its user namespace if that is its own, whose ids files then have.

    Returns:
        Whether it has a user namespace of its own; the caller keeps the ids that it had in the host's.

    Raises:
        ConflictError: it ended a moment ago.
    """
    try:
        own = os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
        k.setns(pidfd, k.CLONE_NEWNS | (k.CLONE_NEWUSER if own else 0))
    except (ProcessLookupError, FileNotFoundError):
        raise ConflictError(ENDED) from None
    return own
