"""The operations that make a root file system: values that can be printed, compared and applied.

Each acts below a root that is held by descriptor; targets are resolved by the kernel inside that root and mounted upon
by descriptor, so nothing that races inside the container's volumes can move a mount elsewhere (threats.md B1 to B8).
They are applied by init, in its own mount namespace, while the host's tree is still visible for sources.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import create_file_in_root, mkdir_all_in_root, mode_in_root, open_in_root
from orlop.runtime.mount_targets import PROC, check_is_proc, check_target, open_ordinary_directory
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from orlop.runtime.mount_options import MountOptions
    from orlop.spec.oci import IdMapping
else:
    Protocol = object


_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Root:
    """The root being built.

    Attributes:
        fd: O_PATH descriptor of its top directory.
        null_fd: the host's verified /dev/null.
        empty_fd: a mounted, empty, read-only tmpfs that masks directories; -1 until the first one is made.
        trees: detached mounts that were made for the operation at hand, which takes and closes them.
        kernel: the procfs and sysfs that were mounted, by their destinations.
        late: mounts that become read-only when everything has its place in them.
    """

    fd: int
    null_fd: int
    empty_fd: int = field(default=-1)
    trees: list[OwnedFd] = field(default_factory=list)
    kernel: dict[str, OwnedFd] = field(default_factory=dict)
    late: list[OwnedFd] = field(default_factory=list)

    def mounted(self, destination: str, kernel: OwnedFd | None = None) -> None:
        """Remember a file system of the kernel's, or that something else covers that place now."""
        old = self.kernel.pop(destination, None)
        if old is not None:
            old.close()
        if kernel is not None:
            self.kernel[destination] = OwnedFd(os.dup(kernel.fileno()))

    def open_kernel_path(self, path: str) -> OwnedFd | None:
        """Open what is to be hidden or made read-only; None: this kernel does not have it.

        Below procfs and sysfs from the mount itself: somebody who shares the root may have renamed its place since, and
        a path that is not found would be a path that is not hidden (CVE-2025-31133).
        """
        base, rest = self.fd, path
        for place, fd in self.kernel.items():
            if path.startswith(place + "/"):
                base, rest = fd.fileno(), path[len(place) + 1 :]
        try:
            return open_in_root(base, rest, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_top(self, fd: int) -> bool:
        """Whether it is the top directory, on which a mount would hide nothing: it is where paths begin."""
        return os.path.samestat(os.fstat(self.fd), os.fstat(fd))

    def make_read_only(self) -> None:
        """Do what was left for the end."""
        for fd in self.late:
            k.mount_setattr(fd.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY)

    def close(self) -> None:
        """Close what was opened on the way."""
        for fd in (*self.kernel.values(), *self.late):
            fd.close()
        if self.empty_fd >= 0:
            os.close(self.empty_fd)


class Operation(Protocol):
    """One step of building a root."""

    def describe(self) -> str:
        """Return it as one line of text."""

    def apply(self, root: Root) -> None:
        """Do it. Raises OrlopError or OSError."""


def parameter(text: str) -> tuple[str, str | None]:
    """Split ``key=value``; a flag has no value."""
    key, equals, value = text.partition("=")
    return key, value if equals else None


def make_filesystem(fstype: str, source: str, parameters: tuple[str, ...], attributes: int) -> OwnedFd:
    """Return a detached mount of a new file system."""
    try:
        opened = k.fsopen(fstype)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise InvalidParameterError(f"unknown filesystem type: {fstype}") from None
    with OwnedFd(opened) as context:
        if source:
            k.fsconfig_set_string(context.fileno(), "source", source)
        for text in parameters:
            key, value = parameter(text)
            if value is None:
                k.fsconfig_set_flag(context.fileno(), key)
            else:
                k.fsconfig_set_string(context.fileno(), key, value)
        k.fsconfig_create(context.fileno())
        return OwnedFd(k.fsmount(context.fileno(), attributes))


@dataclass(frozen=True)
class MountFilesystem:
    """Mount a new instance of a file system. ``ordinary``: the target must not be reached through links.

    ``label``: SELinux's, of its root, where a label cannot be an option of the mount.
    """

    fstype: str
    source: str
    destination: str
    options: MountOptions
    ordinary: bool = False
    label: str = ""

    def describe(self) -> str:
        """Return it as one line of text."""
        parameters = ",".join(self.options.parameters)
        line = f"mount {self.fstype} {self.source} {self.destination} attr={self.options.attr_set:#x} {parameters}"
        return line.rstrip() + (f" label={self.label}" if self.label else "")

    def make(self) -> OwnedFd:
        """Return it as a detached mount."""
        attributes = self.options.attr_set & ~k.MOUNT_ATTR_RDONLY
        tree = make_filesystem(self.fstype, self.source, self.options.parameters, attributes)
        if self.label:
            with OwnedFd(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fileno())) as top:
                os.setxattr(top.fileno(), "security.selinux", self.label.encode() + b"\0")
        return tree

    @property
    def _takes_mode(self) -> bool:
        """Whether it gets the mode of a directory that it covers: a tmpfs that is given none, as with runc and crun."""
        return self.fstype == "tmpfs" and not any(text.startswith("mode=") for text in self.options.parameters)

    def apply(self, root: Root) -> None:
        """Mount it."""
        covered = mode_in_root(root.fd, self.destination) if self._takes_mode else None
        opener = open_ordinary_directory if self.ordinary else mkdir_all_in_root
        with (
            root.trees.pop() if root.trees else self.make() as tree,
            opener(root.fd, self.destination) as target,
        ):
            if not self.ordinary:
                check_target(root.fd, target.fileno(), self.destination)
            if self.options.copy_up:
                from orlop.runtime.tmpfs_copy import copy_covered

                copy_covered(target.fileno(), tree.fileno(), self.options.parameters)
            elif covered is not None:
                os.chmod(".", covered, dir_fd=tree.fileno())
            k.move_mount(tree.fileno(), target.fileno())
            if self.options.attr_set & k.MOUNT_ATTR_RDONLY:
                root.late.append(OwnedFd(os.dup(tree.fileno())))
            root.mounted(self.destination, tree if self.fstype in {"proc", "sysfs"} else None)
            if self.options.propagation:
                propagation = self.options.propagation & ~k.MS_REC
                k.mount_setattr(tree.fileno(), "", propagation=propagation)


@dataclass(frozen=True)
class Bind:
    """Show a directory or file of the host, or, with ``inside``, one of the root, at another place."""

    source: str
    destination: str
    options: MountOptions
    recursive: bool = True
    mappings: tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]] | None = None

    def describe(self) -> str:
        """Return it as one line of text."""
        kind = "rbind" if self.recursive else "bind"
        return f"{kind} {self.source} {self.destination} attr={self.options.attr_set:#x}"

    def open(self) -> OwnedFd:
        """Return a detached clone of the source with the mount attributes."""
        flags = k.OPEN_TREE_CLONE | (k.AT_RECURSIVE if self.recursive else 0)
        try:
            if self.options.subpath:
                tree = self._open_part(flags)
            else:
                tree = OwnedFd(k.open_tree(k.AT_FDCWD, self.source, flags))
        except FileNotFoundError:
            message = f"error mounting {self.source!r} to rootfs at {self.destination!r}: no such file or directory"
            raise InvalidParameterError(message.replace("'", '"')) from None
        options = self.options
        try:
            if options.attr_set or options.attr_clear:
                k.mount_setattr(tree.fileno(), "", attr_set=options.attr_set, attr_clear=options.attr_clear)
            if options.recursive_set or options.recursive_clear:
                k.mount_setattr(
                    tree.fileno(),
                    "",
                    attr_set=options.recursive_set,
                    attr_clear=options.recursive_clear,
                    recursive=True,
                )
        except BaseException:
            tree.close()
            raise
        return tree

    def _open_part(self, flags: int) -> OwnedFd:
        """Clone what the subpath leads to inside the source, whatever links are on the way (CVE-2024-11218)."""
        with OwnedFd(os.open(self.source, _DIRECTORY)) as top:
            try:
                part = open_in_root(top.fileno(), self.options.subpath)
            except OSError as error:
                reason = (error.strerror or "").lower()
                message = f"cannot access path {self.source}/{self.options.subpath}: {reason}"
                raise InvalidParameterError(message) from None
            with part:
                return OwnedFd(k.open_tree(part.fileno(), "", flags | k.AT_EMPTY_PATH))

    def open_as_it_is(self) -> OwnedFd:
        """Open it in init, which maps no ids: what was to be mapped has come from its parent, or nobody may map it."""
        if self.options.idmap:
            raise UnsupportedError(f"only the machine's root can mount with mapped ids: {self.destination}")
        return self.open()

    def apply(self, root: Root) -> None:
        """Bind it."""
        options = self.options
        with root.trees.pop() if root.trees else self.open_as_it_is() as tree:
            directory = stat.S_ISDIR(os.fstat(tree.fileno()).st_mode)
            if self.destination == PROC:
                check_is_proc(tree.fileno())
            with self._target(root, directory=directory) as target:
                check_target(root.fd, target.fileno(), self.destination)
                k.move_mount(tree.fileno(), target.fileno())
            root.mounted(self.destination, tree if self.destination == PROC else None)
            if options.propagation:
                recursive = bool(options.propagation & k.MS_REC)
                propagation = options.propagation & ~k.MS_REC
                k.mount_setattr(tree.fileno(), "", propagation=propagation, recursive=recursive)

    def _target(self, root: Root, *, directory: bool) -> OwnedFd:
        try:
            if self.destination == PROC:
                return open_ordinary_directory(root.fd, PROC)
            if directory:
                return mkdir_all_in_root(root.fd, self.destination)
            target = create_file_in_root(root.fd, self.destination)
        except (NotADirectoryError, IsADirectoryError):
            pass
        else:
            if not stat.S_ISDIR(os.fstat(target.fileno()).st_mode):
                return target
            target.close()
        raise InvalidParameterError(
            f'error mounting "{self.source}" to rootfs at "{self.destination}": not a directory: '
            "are you trying to mount a directory onto a file (or vice-versa)? "
            "check if the specified host path exists and is the expected type",
        )


@dataclass(frozen=True)
class MountCgroups:
    """Show the container's own cgroups, one directory per hierarchy (v1) or the unified one (v2)."""

    destination: str
    directories: tuple[tuple[str, str], ...]
    options: MountOptions

    def describe(self) -> str:
        """Return it as one line of text."""
        names = ",".join(name or "unified" for name, _ in self.directories)
        return f"cgroups {self.destination} {names} attr={self.options.attr_set:#x}"

    def open(self) -> list[OwnedFd]:
        """Return detached clones of the directories with the mount attributes, in order."""
        trees: list[OwnedFd] = []
        try:
            for _, directory in self.directories:
                trees.append(OwnedFd(k.open_tree(k.AT_FDCWD, directory, k.OPEN_TREE_CLONE)))
                k.mount_setattr(trees[-1].fileno(), "", attr_set=self.options.attr_set)
        except BaseException:
            for tree in trees:
                tree.close()
            raise
        return trees

    def apply(self, root: Root) -> None:
        """Mount them."""
        trees = root.trees or self.open()
        try:
            self._mount(root, trees)
        finally:
            for tree in trees:
                tree.close()

    def _mount(self, root: Root, trees: list[OwnedFd]) -> None:
        unified = dict(self.directories).get("")
        with open_ordinary_directory(root.fd, self.destination) as target:
            if unified is not None and len(self.directories) == 1:
                k.move_mount(trees[0].fileno(), target.fileno())
                self._propagate(trees[0])
                return
            attributes = self.options.attr_set & ~k.MOUNT_ATTR_RDONLY
            with make_filesystem("tmpfs", "tmpfs", ("mode=755",), attributes) as top:
                k.move_mount(top.fileno(), target.fileno())
                for (name, _), tree in zip(self.directories, trees, strict=True):
                    os.mkdir(name or "unified", 0o755, dir_fd=top.fileno())
                    with OwnedFd(os.open(name or "unified", _DIRECTORY, dir_fd=top.fileno())) as place:
                        k.move_mount(tree.fileno(), place.fileno())
                    for alias in name.split(",") if "," in name else ():
                        os.symlink(name, alias, dir_fd=top.fileno())
                if self.options.attr_set & k.MOUNT_ATTR_RDONLY:
                    k.mount_setattr(top.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY)
                self._propagate(top)

    def _propagate(self, top: OwnedFd) -> None:
        flags = self.options.propagation
        if flags:
            k.mount_setattr(top.fileno(), "", propagation=flags & ~k.MS_REC, recursive=bool(flags & k.MS_REC))
