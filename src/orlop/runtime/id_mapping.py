"""Mounts with a mapping of their own (mount_setattr(2), MOUNT_ATTR_IDMAP); only for configurations that have some."""

from __future__ import annotations

import os

from orlop.errors import SystemFailureError
from orlop.kernel import process as k
from orlop.kernel.plain import signal
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.operations import Bind
from orlop.runtime.remapping import map_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.primitives.scope import Cleanup
    from orlop.runtime.operations import Operation
    from orlop.spec.oci import IdMapping


def write_map(pid: int, name: str, mappings: Sequence[IdMapping]) -> None:
    """Write ``uid_map`` or ``gid_map`` of a process in a new user namespace (user_namespaces(7))."""
    lines = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, lines.encode())
    except OSError as error:
        raise SystemFailureError(f"unable to write {name}: {(error.strerror or '').lower()}") from None
    finally:
        os.close(fd)


def make_user_namespace(uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> OwnedFd:
    """Return a user namespace with these mappings in which nobody lives."""
    pid, pidfd_number = k.clone3(k.CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    with OwnedFd(pidfd_number) as pidfd:
        try:
            write_map(pid, "uid_map", uids)
            write_map(pid, "gid_map", gids)
            return OwnedFd(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            k.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)


def open_mapped(operations: Sequence[Operation], stack: Cleanup) -> dict[int, list[OwnedFd]]:
    """Return the binds with mappings as detached mounts, by their places. Raises OrlopError."""
    trees: dict[int, list[OwnedFd]] = {}
    for place, operation in enumerate(operations):
        if isinstance(operation, Bind) and operation.mappings is not None:
            tree = stack.enter_context(operation.open())
            with make_user_namespace(*operation.mappings) as userns:
                map_ids(tree, userns.fileno(), operation.source, recursive=operation.options.recursive_idmap)
            trees[place] = [tree]
    return trees
