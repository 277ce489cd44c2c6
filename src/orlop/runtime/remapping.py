"""Mounts that the root of a user namespace may not make, made for it by its parent, which is root on the host.

Files keep the ids they have on disk: what is the engine's own (layers, volumes, ``/etc/hosts``) is shown through
id-mapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP), so one store serves containers with and without a user namespace.
All of it is detached: it comes to be somewhere in init's mount namespace only.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import SystemFailureError, UnsupportedError
from orlop.kernel import mount as k
from orlop.kernel.mounter import mounting_as
from orlop.kernel.process import setns
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import Cleanup
from orlop.runtime.init_task import MADE_ROOT
from orlop.runtime.operations import Bind, MountCgroups, MountFilesystem
from orlop.runtime.rootfs import mount_overlay, private_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.primitives.channel import Channel
    from orlop.runtime.container import Creation
    from orlop.runtime.operations import Operation
    from orlop.spec.launch import OverlayRoot
    from orlop.spec.oci import Config

_BATCH = 16  # descriptors in one message
_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def foreign_filesystems(config: Config, *, has_netns: bool) -> frozenset[str]:
    """Return the file systems of namespaces that are not the user namespace's own: it may not mount those."""
    foreign = set()
    for kind, fstype in (("network", "sysfs"), ("ipc", "mqueue"), ("pid", "proc")):
        namespace = config.linux.namespace(kind)
        if namespace is None or namespace.path or (kind == "network" and has_netns):
            foreign.add(fstype)
    return frozenset(foreign)


def prepare_trees(
    operations: Sequence[Operation], foreign: frozenset[str], userns_fd: int, *, taken: frozenset[int]
) -> list[tuple[int, OwnedFd]]:
    """Open what the operations bind, and mount what is ``foreign``; returns detached mounts by place.

    Raises:
        UnsupportedError: a file system or kernel without id-mapped mounts.
    """
    trees: list[tuple[int, OwnedFd]] = []
    with Cleanup() as on_failure:
        for place, operation in enumerate(operations):
            if place in taken:  # those with mappings of their own, too
                continue
            made: list[OwnedFd] = []
            if isinstance(operation, Bind):
                made = [operation.open()]
            elif isinstance(operation, MountCgroups):
                made = operation.open()
            elif isinstance(operation, MountFilesystem) and operation.fstype in foreign:
                made = [_process_files(operation) if operation.fstype == "proc" else operation.make()]
            for tree in made:
                on_failure.callback(tree.close)
                trees.append((place, tree))
            if isinstance(operation, Bind) and operation.options.idmap:
                map_ids(made[0], userns_fd, operation.source, recursive=operation.options.recursive_idmap)
        on_failure.dismiss()
    return trees


def _process_files(operation: MountFilesystem) -> OwnedFd:
    """Return a procfs of the pid namespace that our children are in, which is not ours."""
    with (
        OwnedFd(k.fsopen("proc")) as context,
        OwnedFd(os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)) as pids,
    ):
        try:
            k.fsconfig_set_fd(context.fileno(), "pidns", pids.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            message = f"sharing a pid namespace from a user namespace needs Linux 6.17: {error}"
            raise UnsupportedError(message) from None
        k.fsconfig_create(context.fileno())
        return OwnedFd(k.fsmount(context.fileno(), operation.options.attr_set))


def map_ids(tree: OwnedFd, userns_fd: int, path: str, *, recursive: bool = False) -> None:
    """Show a detached mount, or a tree of them, with the ids of a user namespace."""
    try:
        k.mount_setattr(tree.fileno(), "", attr_set=k.MOUNT_ATTR_IDMAP, userns_fd=userns_fd, recursive=recursive)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSYS}:
            raise
        raise UnsupportedError(f"file system cannot be mounted with mapped ids: {path}: {error}") from None


def mount_mapped_overlay(root: OverlayRoot, userns_fd: int, owner: tuple[int, int]) -> OwnedFd:
    """Return a detached overlay of id-mapped layers.

    Args:
        root: layers; upper and work have the same parent directory.
        userns_fd: the user namespace whose mapping is used.
        owner: the host's user and group id of its root: as it overlay makes what it makes in the upper layer.

    Raises:
        UnsupportedError: no id-mapped mounts here, or no layers by descriptor (before Linux 6.13).
    """
    if not root.lower:
        whole = mount_overlay(root)
        try:
            map_ids(whole, userns_fd, root.device.path if root.device else root.upper or "")
        except BaseException:
            whole.close()
            raise
        return whole
    with Cleanup() as always:

        def mapped(path: str) -> OwnedFd:
            tree = always.enter_context(OwnedFd(k.open_tree(k.AT_FDCWD, path, k.OPEN_TREE_CLONE)))
            map_ids(tree, userns_fd, path)
            return tree

        layers = [("lowerdir+", mapped(lower)) for lower in root.lower]
        if root.upper is not None and root.work is not None:
            parent = os.path.dirname(root.upper)
            if os.path.dirname(root.work) != parent:
                raise SystemFailureError(f"not beside the upper layer: {root.work}")
            tree = mapped(parent)  # of one mount, or overlay refuses
            for key, path in (("upperdir", root.upper), ("workdir", root.work)):
                fd = os.open(os.path.basename(path), _PATH_DIRECTORY, dir_fd=tree.fileno())
                layers.append((key, always.enter_context(OwnedFd(fd))))
        context = always.enter_context(OwnedFd(k.fsopen("overlay"))).fileno()
        k.fsconfig_set_string(context, "source", "overlay")
        for key, layer in layers:
            try:
                k.fsconfig_set_fd(context, key, layer.fileno())
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise UnsupportedError(f"overlay of mapped layers needs Linux 6.13: {error}") from None
        if root.upper is not None:
            k.fsconfig_set_string(context, "index", "off")
        k.fsconfig_set_string(context, "metacopy", "off")
        k.fsconfig_set_string(context, "redirect_dir", "nofollow")
        if root.volatile:
            k.fsconfig_set_flag(context, "volatile")
        with mounting_as(*owner):
            k.fsconfig_create(context)
        return OwnedFd(k.fsmount(context))


def host_owner(config: Config) -> tuple[int, int]:
    """Return the host's ids of the user namespace's root.

    Raises:
        UnsupportedError: 0 is not mapped.
    """
    found = []
    for mappings in (config.linux.uid_mappings, config.linux.gid_mappings):
        hosts = [m.host_id - m.container_id for m in mappings if m.container_id == 0]
        if not hosts:
            raise UnsupportedError("user namespace without a root is not supported")
        found.append(hosts[0])
    return found[0], found[1]


def give_streams(stdio: Sequence[int], owner: tuple[int, int]) -> None:
    """Give pipes and sockets to the user namespace's root, which could not open ``/dev/stdout`` otherwise."""
    for fd in {*stdio}:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, *owner)


__all__ = ["foreign_filesystems", "give_streams", "host_owner", "mount_mapped_overlay", "prepare_trees"]


def before_user_namespace(creation: Creation, joins: Sequence[tuple[int, int]]) -> Mapping[str, str]:
    """Do what only the host's root may: enter namespaces of others, set their network's sysctls; returns the rest."""
    for fd, flag in joins:
        setns(fd, flag)
    config = creation.config
    if creation.stdio is not None:
        give_streams(creation.stdio, host_owner(config))
    if creation.fifo is not None:  # which init opens when it has its ids
        os.chown(f"/proc/self/fd/{creation.fifo}", *host_owner(config))
    foreign = "sysfs" in foreign_filesystems(config, has_netns=creation.netns is not None)
    network = {name: value for name, value in config.linux.sysctl.items() if foreign and name.startswith("net.")}
    if network:
        with private_proc() as proc:
            from orlop.runtime.sysctl import write_sysctls

            write_sysctls(proc.fileno(), network)
    return {name: value for name, value in config.linux.sysctl.items() if name not in network}


def send_trees(
    sync: Channel, pid: int, creation: Creation, operations: Sequence[Operation], *, taken: frozenset[int]
) -> None:
    """Make what init, which is root in its user namespace only, cannot mount itself, and hand it over."""
    config = creation.config
    foreign = foreign_filesystems(config, has_netns=creation.netns is not None)
    with Cleanup() as always:
        userns = always.enter_context(OwnedFd(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))).fileno()
        trees = prepare_trees(operations, foreign, userns, taken=taken)
        for _, tree in trees:
            always.callback(tree.close)
        if creation.overlay is not None:
            root = mount_mapped_overlay(creation.overlay, userns, host_owner(config))
            trees.append((MADE_ROOT, always.enter_context(root)))
        for start in range(0, len(trees), _BATCH):
            batch = trees[start : start + _BATCH]
            sync.send({"trees": [place for place, _ in batch]}, [tree.fileno() for _, tree in batch])
