"""Operations that hide paths of a root, or make them read-only: maskedPaths and readonlyPaths."""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import is_char_device
from orlop.runtime.operations import make_filesystem
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.operations import Root


@dataclass(frozen=True)
class Mask:
    """Hide a path: a directory behind an empty one, a file behind the host's /dev/null (CVE-2025-31133)."""

    path: str

    def describe(self) -> str:
        """Return it as one line of text."""
        return f"mask {self.path}"

    def apply(self, root: Root) -> None:
        """Hide it; a path that this kernel does not have needs no mask."""
        target = root.open_kernel_path(self.path)
        if target is None:
            return
        with target:
            if root.is_top(target.fileno()):
                raise InvalidParameterError(f"the root itself cannot be masked: {self.path}")
            directory = stat.S_ISDIR(os.fstat(target.fileno()).st_mode)
            with self._empty(root) if directory else self._null(root) as tree:
                k.move_mount(tree.fileno(), target.fileno())
                if directory and root.empty_fd < 0:
                    root.empty_fd = os.dup(tree.fileno())

    @staticmethod
    def _empty(root: Root) -> OwnedFd:
        if root.empty_fd >= 0:
            return OwnedFd(k.open_tree(root.empty_fd, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH))
        attributes = k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
        return make_filesystem("tmpfs", "tmpfs", ("nr_inodes=2", "mode=755"), attributes)

    @staticmethod
    def _null(root: Root) -> OwnedFd:
        if not is_char_device(root.null_fd, 1, 3):
            raise SystemFailureError("not the null device: /dev/null")
        null = OwnedFd(k.open_tree(root.null_fd, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH))
        k.mount_setattr(null.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NOEXEC)
        return null


@dataclass(frozen=True)
class MakeReadOnly:
    """Bind a path onto itself, read-only."""

    path: str

    def describe(self) -> str:
        """Return it as one line of text."""
        return f"read-only {self.path}"

    def apply(self, root: Root) -> None:
        """Do it; a path that this kernel does not have needs none."""
        target = root.open_kernel_path(self.path)
        if target is None:
            return
        if root.is_top(target.fileno()):
            root.late.append(target)
            return
        flags = k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH | k.AT_RECURSIVE
        with target, OwnedFd(k.open_tree(target.fileno(), "", flags)) as tree:
            k.mount_setattr(tree.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY)
            k.move_mount(tree.fileno(), target.fileno())
