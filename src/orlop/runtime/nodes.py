"""Operations that put device nodes and links into a root, in directories that are reached without links (B8)."""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidParameterError
from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import components, create_file_in_root
from orlop.runtime.mount_targets import check_target, open_ordinary_directory
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from orlop.runtime.operations import Operation, Root
    from orlop.spec.oci import Config

_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


@dataclass(frozen=True)
class MakeNode:
    """Make a device node or FIFO, with umask 0; in a user namespace the host's node is bound instead."""

    path: str
    mode: int
    device: int
    uid: int = 0
    gid: int = 0
    bind_from: str = ""

    def describe(self) -> str:
        """Return it as one line of text."""
        if self.bind_from:
            return f"node {self.path} bound from {self.bind_from}"
        kind = {stat.S_IFBLK: "b", stat.S_IFIFO: "p"}.get(stat.S_IFMT(self.mode), "c")
        return f"node {self.path} {kind} {os.major(self.device)}:{os.minor(self.device)} {stat.S_IMODE(self.mode):o}"

    def apply(self, root: Root) -> None:
        """Make it."""
        if self.bind_from:
            with (
                OwnedFd(k.open_tree(k.AT_FDCWD, self.bind_from, k.OPEN_TREE_CLONE)) as tree,
                create_file_in_root(root.fd, self.path) as target,
            ):
                found = os.fstat(tree.fileno())
                if (stat.S_IFMT(found.st_mode), found.st_rdev) != (stat.S_IFMT(self.mode), self.device):
                    raise InvalidParameterError(f"the host has another device there: {self.bind_from}")
                check_target(root.fd, target.fileno(), self.path)
                k.move_mount(tree.fileno(), target.fileno())
            return
        names = components(self.path)
        with open_ordinary_directory(root.fd, os.fsdecode(b"/".join(names[:-1]))) as parent:
            try:
                os.mknod(names[-1], self.mode, self.device, dir_fd=parent.fileno())
            except FileExistsError:
                # left as it is: it may be the host's, whose directory is bound here
                self._check_existing(parent.fileno(), names[-1])
                return
            os.chown(names[-1], self.uid, self.gid, dir_fd=parent.fileno(), follow_symlinks=False)

    def _check_existing(self, parent_fd: int, name: bytes) -> None:
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(self.mode) or found.st_rdev != self.device:
            raise InvalidParameterError(f"device node exists and is another one: {self.path}")


@dataclass(frozen=True)
class MakeLink:
    """Make a symbolic link in a directory that is reached without links; one that exists is left."""

    path: str
    target: str

    def describe(self) -> str:
        """Return it as one line of text."""
        return f"link {self.path} -> {self.target}"

    def apply(self, root: Root) -> None:
        """Make it, unless it is to a file of procfs that this kernel does not have."""
        if self.target == "/proc/kcore":
            kernel = root.open_kernel_path(self.target)
            if kernel is None:
                return
            kernel.close()
        names = components(self.path)
        with open_ordinary_directory(root.fd, os.fsdecode(b"/".join(names[:-1]))) as parent:
            try:
                os.symlink(self.target, names[-1], dir_fd=parent.fileno())
            except FileExistsError:
                return


def default_nodes(config: Config, *, user_namespace: bool, bound: Container[str] = ()) -> list[Operation]:
    """Return what makes the specification's default devices and links, and the configuration's devices.

    Args:
        config: of the container.
        user_namespace: it has one, in which no node can be made.
        bound: where something is bound already, which is what is wanted there: /dev/urandom on /dev/random, say.
    """
    operations: list[MakeNode | MakeLink] = []
    own = {device.path for device in config.linux.devices}
    for name, major, minor in _NODES:
        if f"/dev/{name}" in own:
            continue  # with the owner and the mode that it has there
        source = f"/dev/{name}" if user_namespace else ""
        operations.append(MakeNode(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor), bind_from=source))
    for device in config.linux.devices:
        mode = _KINDS[device.type] | (0o666 if device.mode is None else stat.S_IMODE(device.mode))
        source = device.path if user_namespace and device.type != "p" else ""
        number = os.makedev(device.major, device.minor)
        operations.append(MakeNode(device.path, mode, number, device.uid or 0, device.gid or 0, bind_from=source))
    operations += [MakeLink(path, target) for path, target in _LINKS]
    operations.append(MakeLink("/dev/ptmx", "pts/ptmx"))
    operations.append(MakeLink("/dev/core", "/proc/kcore"))
    return [operation for operation in operations if operation.path not in bound]
