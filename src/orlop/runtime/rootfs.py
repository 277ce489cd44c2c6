"""From a configuration to the list of operations that makes its root file system, and what comes after them.

:func:`plan` is pure: it can be printed (``describe``), compared and tested without root. :func:`build` applies it.
"""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import is_char_device, is_proc, open_in_root
from orlop.runtime.device_root import mount_device
from orlop.runtime.mount_options import PROPAGATION, MountOptions, parse_options
from orlop.runtime.mount_targets import PROC, check_below_proc
from orlop.runtime.nodes import MakeNode, default_nodes
from orlop.runtime.operations import Bind, MountCgroups, MountFilesystem, Operation, Root, make_filesystem
from orlop.runtime.protected_paths import MakeReadOnly, Mask
from orlop.spec.charset import DIGITS, LOWER, consists_of
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from orlop.spec.launch import OverlayRoot
    from orlop.spec.oci import Config, Mount

# file systems without a device behind them
_OF_THE_CONTAINER = frozenset({"tmpfs", "devpts", "mqueue", "ramfs"})
# of the hierarchy and not of a mount (cgroup-v2.rst); containerd repeats them, so that they stay as they are
_OF_ALL_CGROUPS = frozenset(
    {"nsdelegate", "favordynmods", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting"}
    | {"pids_localevents"}
)
# SELinux labels each of their files by itself and takes no context for all
_UNLABELLED = frozenset({"proc", "sysfs"})
_FILESYSTEM = LOWER | DIGITS | frozenset("._-")
LEGACY_OPTIONS_LIMIT = 4095  # one page, with its final NUL


def plan(config: Config, cgroup_directories: Mapping[str, str], *, user_namespace: bool) -> list[Operation]:
    """Return the operations for ``config``, in order.

    Raises:
        InvalidParameterError: a mount destination that is not allowed.
        UnsupportedError: an option that would have to be ignored.
    """
    operations: list[Operation] = []
    for mount in config.mounts:
        operation = mount_operation(mount, cgroup_directories, user_namespace=user_namespace)
        if isinstance(operation, MountCgroups) and user_namespace and config.linux.namespace("cgroup") is None:
            # CVE-2023-25809: the host's cgroups are for nobody inside to write, whatever the bundle says
            options = replace(operation.options, attr_set=operation.options.attr_set | k.MOUNT_ATTR_RDONLY)
            operation = replace(operation, options=options)
        if config.linux.mount_label and isinstance(operation, MountFilesystem) and operation.fstype not in _UNLABELLED:
            operation = _labelled(operation, config.linux.mount_label)
        operations.append(operation)
    # the specification's default devices, also where nothing is mounted on /dev; a bound one has what it has
    bound = {operation.destination for operation in operations if isinstance(operation, Bind)}
    if "/dev" not in bound:
        operations += default_nodes(config, user_namespace=user_namespace, bound=bound)
        operations += _console_of(config, operations, bound)
    operations += [MakeReadOnly(path) for path in config.linux.readonly_paths]
    operations += [Mask(path) for path in config.linux.masked_paths]
    return operations


def _console_of(config: Config, operations: Sequence[Operation], bound: Container[str]) -> list[Operation]:
    """Return what makes the place of a terminal's /dev/console before a fresh /dev becomes read-only."""
    if config.process is None or not config.process.terminal or "/dev/console" in bound:
        return []
    fresh = any(isinstance(operation, MountFilesystem) and operation.destination == "/dev" for operation in operations)
    taken = any(device.path == "/dev/console" for device in config.linux.devices)
    return [MakeNode("/dev/console", stat.S_IFREG | 0o600, 0)] if fresh and not taken else []


def _labelled(operation: MountFilesystem, label: str) -> MountFilesystem:
    """Return it with the label of mountLabel; mqueue's is mounted already, inside the kernel, and takes no option."""
    if operation.fstype == "mqueue":
        return replace(operation, label=label)
    parameters = (*operation.options.parameters, f"context={label}")
    return replace(operation, options=replace(operation.options, parameters=parameters))


def mount_operation(mount: Mount, cgroup_directories: Mapping[str, str], *, user_namespace: bool) -> Operation:
    """Return the operation of one of the configuration's mounts. Raises as :func:`plan` does."""
    destination = os.path.normpath("/" + mount.destination.lstrip("/"))
    options = parse_options(mount.options)
    kind = mount.type
    if options.remount:
        from orlop.runtime.remount import Remount

        check_below_proc(destination)
        return Remount(destination, options)
    is_bind = kind == "bind" or options.bind  # whatever its type says, as for runc and crun
    mappings = (mount.uid_mappings, mount.gid_mappings) if mount.uid_mappings else None
    if (mappings or options.idmap) and not is_bind:
        raise UnsupportedError(f"mapped ids are supported for bind mounts only: {destination}")
    if options.idmap and not mappings and not user_namespace:
        raise InvalidParameterError(f"mount with idmap has no mappings and no user namespace: {destination}")
    layers = kind == "overlay" and _is_of_layers(options)
    if options.subpath and not (is_bind or layers):
        raise InvalidParameterError(f"a part of the source is supported for bind mounts only: {destination}")
    if options.copy_up and kind != "tmpfs":
        raise InvalidParameterError(f"tmpcopyup is an option of tmpfs only: {destination}")
    if destination == "/":
        raise InvalidParameterError("invalid mount: cannot mount on the root: /")
    if is_bind:
        if destination != PROC:
            check_below_proc(destination)
        _refuse_others(options, "bind", frozenset())
        recursive = options.recursive or not options.bind
        return Bind(mount.source, destination, options, recursive=recursive, mappings=mappings)
    options = options.of_one_mount()
    if kind in {"proc", "sysfs"}:
        return MountFilesystem(kind, mount.source or kind, destination, options, ordinary=True)
    check_below_proc(destination)
    if kind in {"cgroup", "cgroup2"}:
        _refuse_others(options, "cgroup", _OF_ALL_CGROUPS)
        return MountCgroups(destination, tuple(cgroup_directories.items()), options)
    if layers:
        from orlop.runtime.image_mount import LAYER_OPTION, MountLayers

        paths = tuple([word[len(LAYER_OPTION) :] for word in options.parameters])
        return MountLayers(paths, destination, options.subpath)
    if not consists_of(kind, _FILESYSTEM, 1, 32):
        raise InvalidParameterError(f"invalid mount type: {kind or 'none'!r}: {destination}")
    if options.attr_set & k.MOUNT_ATTR_RDONLY and kind not in _OF_THE_CONTAINER:
        # a device that is read-only itself can be mounted only so
        options = replace(options, parameters=("ro", *options.parameters))
    if kind in _OF_THE_CONTAINER:
        options = replace(options, parameters=_single(options.parameters))
    source = mount.source or (kind if kind in _OF_THE_CONTAINER else "")
    return MountFilesystem(kind, source, destination, options, ordinary=destination.startswith("/dev"))


def _single(parameters: Sequence[str]) -> tuple[str, ...]:
    """Return parameters one by one: mount(2) takes ``size=1m,mode=700`` for two, but for a digit after the comma."""
    found: list[str] = []
    for parameter in parameters:
        first, *others = parameter.split(",") if "context=" not in parameter else [parameter]
        found.append(first)
        for word in others:
            if word[:1] in DIGITS:  # of mpol=bind:0,2
                found[-1] += f",{word}"
            elif word:
                found.append(word)
    return tuple(found)


def _refuse_others(options: MountOptions, kind: str, known: frozenset[str]) -> None:
    """Refuse options of a file system where none is mounted. Raises InvalidParameterError."""
    for parameter in options.parameters:
        if parameter not in known:
            raise InvalidParameterError(f"invalid option of a {kind} mount: {parameter}")


def _is_of_layers(options: MountOptions) -> bool:
    """Whether an overlay is layers and nothing else, as the engine asks for; any other is for the kernel to read."""
    words = options.parameters
    bare = replace(options, parameters=(), subpath="")
    return (
        bool(words)
        and all(word.startswith("lowerdir+=") for word in words)
        and bare in (MountOptions(), MountOptions(attr_set=k.MOUNT_ATTR_RDONLY))
    )


def overlay_legacy_options(root: OverlayRoot, names: Sequence[str]) -> str:
    """Return mount(2)'s option string for layers under short ``names`` (lower ..., upper, work)."""
    lowers, rest = names[: len(root.lower)], names[len(root.lower) :]
    text = "lowerdir=" + ":".join(lowers)
    if root.upper is not None:
        text += f",upperdir={rest[0]},workdir={rest[1]}"
    return text + (",volatile" if root.volatile else "")


def mount_overlay(root: OverlayRoot) -> OwnedFd:
    """Return a detached mount: a whole tree bound, a device's file system, or an overlay of layers.

    Each layer is one ``lowerdir+``, so that no path is ever parsed (threats.md B18).

    Raises:
        OSError: EINVAL where the kernel (before 6.5) does not know ``lowerdir+``.
    """
    if root.device is not None:
        return mount_device(root.device)
    if not root.lower and root.upper is not None:
        return OwnedFd(k.open_tree(k.AT_FDCWD, root.upper, k.OPEN_TREE_CLONE))
    with OwnedFd(k.fsopen("overlay")) as context:
        fd = context.fileno()
        k.fsconfig_set_string(fd, "source", "overlay")
        for lower in root.lower:
            k.fsconfig_set_string(fd, "lowerdir+", lower)
        if root.upper is not None and root.work is not None:
            k.fsconfig_set_string(fd, "upperdir", k.escape_overlay(root.upper))
            k.fsconfig_set_string(fd, "workdir", k.escape_overlay(root.work))
            k.fsconfig_set_string(fd, "index", "off")
        k.fsconfig_set_string(fd, "metacopy", "off")
        k.fsconfig_set_string(fd, "redirect_dir", "nofollow")
        if root.volatile:
            k.fsconfig_set_flag(fd, "volatile")
        k.fsconfig_create(fd)
        return OwnedFd(k.fsmount(fd))


def mount_overlay_at(root: OverlayRoot, target: str) -> None:
    """Mount an overlay by mount(2), for kernels before 6.5: layers are named by descriptors to keep the text short."""
    paths = [*root.lower, *([root.upper, root.work] if root.upper is not None and root.work is not None else [])]
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in paths]
    try:
        options = overlay_legacy_options(root, [f"/proc/self/fd/{fd}" for fd in fds])
        if len(options) > LEGACY_OPTIONS_LIMIT:
            raise InvalidParameterError(f"too many layers for this kernel: {len(root.lower)}")
        k.mount("overlay", target, "overlay", 0, options)
    finally:
        for fd in fds:
            os.close(fd)


def mount_root(
    overlay: OverlayRoot | None, path: str, target: str, propagation: str, *, made: OwnedFd | None = None
) -> OwnedFd:
    """Mount the container's root at ``target`` in the caller's mount namespace; returns its O_PATH descriptor.

    Args:
        overlay: layers, or None.
        path: a directory to bind where there are no layers.
        target: an existing directory of the host.
        propagation: rootfsPropagation of the configuration. The host's tree is never shared here whatever it says:
            the root and all that is mounted in it would appear on the host (threats.md B14).
        made: the root as a detached mount that somebody made already.

    What rootfsPropagation makes of the root itself comes after pivot_root (:func:`propagate`), but for a slave, which
    has to be one of the host's.
    """
    kind = k.MS_PRIVATE if PROPAGATION.get(propagation, 0) & (k.MS_PRIVATE | k.MS_UNBINDABLE) else k.MS_SLAVE
    k.mount(None, "/", None, kind | k.MS_REC)
    if made is not None:
        tree = made
    elif overlay is None:
        tree = OwnedFd(k.open_tree(k.AT_FDCWD, path, k.OPEN_TREE_CLONE | k.AT_RECURSIVE))
    else:
        try:
            tree = mount_overlay(overlay)
        except OSError as error:
            if error.errno != 22 or len(overlay.lower) == 0:
                raise
            mount_overlay_at(overlay, target)
            return OwnedFd(os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    with OwnedFd(os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
        if not PROPAGATION.get(propagation, 0) & k.MS_SLAVE:
            k.mount_setattr(tree.fileno(), "", propagation=k.MS_PRIVATE)
        k.move_mount(tree.fileno(), place.fileno())
    return tree


def open_shared(operations: Sequence[Operation], trees: dict[int, list[OwnedFd]]) -> None:
    """Open the sources of binds that are to stay shared with the host, as long as its mounts are our peers."""
    for place, operation in enumerate(operations):
        if isinstance(operation, Bind) and operation.options.propagation & k.MS_SHARED and place not in trees:
            trees[place] = [operation.open_as_it_is()]


def open_null() -> OwnedFd:
    """Open the host's /dev/null and make sure that it is the null device."""
    null = OwnedFd(os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    if not is_char_device(null.fileno(), 1, 3):
        null.close()
        raise InvalidParameterError("not the null device: /dev/null")
    return null


def reopen_null(root_fd: int, numbers: Sequence[int] = (0, 1, 2)) -> None:
    """Put the container's own null device in the place of the host's, as runc does.

    What is done to a descriptor is done to the inode: by fchmod(0, 0) root in the container would take the null device
    away from the whole host. A container without one gets a node that is nobody else's.
    """
    for number in numbers:
        if is_char_device(number, 1, 3):
            null = _null_inside(root_fd)
            if null is not None:
                with null:
                    os.dup2(null.fileno(), number, inheritable=True)


def _null_inside(root_fd: int) -> OwnedFd | None:
    """Return a null device that is not the host's, or None where a user namespace keeps us from having one."""
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW  # whatever it is, wait for nobody
    try:
        found = open_in_root(root_fd, "/dev/null", flags)
        if is_char_device(found.fileno(), 1, 3):
            os.set_blocking(found.fileno(), True)
            return found
        found.close()
    except OSError:
        pass
    try:
        with make_filesystem("tmpfs", "tmpfs", ("mode=755", "nr_inodes=2"), k.MOUNT_ATTR_NOSUID) as place:
            os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3), dir_fd=place.fileno())
            null = OwnedFd(os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=place.fileno()))
            os.fchmod(null.fileno(), 0o666)
            return null
    except OSError:
        return None  # there the host's is of a user who is not mapped, and not to be changed


def build(
    operations: Sequence[Operation], root_fd: int, null_fd: int, trees: Mapping[int, list[OwnedFd]] | None = None
) -> None:
    """Apply the operations in order; umask must be 0. ``trees`` were made for the operations at those places."""
    root = Root(root_fd, null_fd)
    try:
        for place, operation in enumerate(operations):
            root.trees = trees.get(place, []) if trees else []
            operation.apply(root)
        root.make_read_only()
    finally:
        root.close()


def pivot(root_fd: int, *, read_only: bool) -> None:
    """Make ``root_fd`` the root of the mount namespace and let go of the old one (pivot_root(2), NOTES)."""
    if read_only:
        k.mount_setattr(root_fd, "", attr_set=k.MOUNT_ATTR_RDONLY)
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root_fd)
    k.pivot_root(".", ".")
    os.fchdir(old)
    # Not private but slave first: the detach below must not travel to the host.
    k.mount(None, ".", None, k.MS_SLAVE | k.MS_REC)
    k.umount2(".", k.MNT_DETACH)
    os.close(old)
    os.chdir("/")


def propagate(root_fd: int, propagation: str) -> None:
    """Make the container's root, which is private, what rootfsPropagation says."""
    flags = PROPAGATION[propagation]
    if flags & (k.MS_SHARED | k.MS_UNBINDABLE):
        recursive = bool(flags & k.MS_REC)
        k.mount_setattr(root_fd, "", propagation=flags & ~k.MS_REC, recursive=recursive)


def private_proc() -> OwnedFd:
    """Return a detached procfs that nothing of the container can reach or replace (CVE-2025-52881)."""
    return make_filesystem("proc", "proc", (), k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC)


def own_proc() -> OwnedFd:
    """Return the container's procfs, or one of nobody's where the container has none or something else there."""
    try:
        proc = OwnedFd(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        return private_proc()
    if is_proc(proc.fileno()):
        return proc
    proc.close()
    return private_proc()


__all__ = ["MountOptions", "build", "mount_root", "open_null", "own_proc", "pivot", "plan", "private_proc"]
