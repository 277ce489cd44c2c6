"""Layers without a writable one, mounted below the root (``--mount type=image``). Only where one is asked for.

A part of them is cloned from a mount of all that nobody else sees, and that is gone when the part is in its place.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidParameterError
from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import create_file_in_root, mkdir_all_in_root, open_in_root
from orlop.runtime.mount_targets import check_target
from orlop.runtime.operations import make_filesystem
from orlop.runtime.rootfs import mount_overlay, mount_overlay_at
from orlop.spec.launch import OverlayRoot
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.operations import Root

# Of an overlay in a configuration: one layer, topmost first. The kernel knows it since 6.8, this runtime without it.
LAYER_OPTION = "lowerdir+="


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLACE = "all"


@dataclass(frozen=True)
class MountLayers:
    """Mount layers, topmost first, read-only; with ``part`` only what this path leads to in them."""

    layers: tuple[str, ...]
    destination: str
    part: str = ""

    def describe(self) -> str:
        """Return it as one line of text."""
        return f"layers {self.destination} {':'.join(self.layers)}" + (f" part={self.part}" if self.part else "")

    def apply(self, root: Root) -> None:
        """Mount them."""
        if self.part:
            self._apply_part(root)
        else:
            with mkdir_all_in_root(root.fd, self.destination) as target:
                check_target(root.fd, target.fileno(), self.destination)
                self._mount_all(target.fileno())
        root.mounted(self.destination)

    def _mount_all(self, target_fd: int) -> None:
        view = OverlayRoot(self.layers)
        try:
            with mount_overlay(view) as tree:
                k.move_mount(tree.fileno(), target_fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The path is this process's own name of the descriptor: the host's /proc is still there.
            mount_overlay_at(view, f"/proc/self/fd/{target_fd}")

    def _apply_part(self, root: Root) -> None:
        with self._clone_part(root.fd) as clone:
            directory = stat.S_ISDIR(os.fstat(clone.fileno()).st_mode)
            opener = mkdir_all_in_root if directory else create_file_in_root
            with opener(root.fd, self.destination) as target:
                check_target(root.fd, target.fileno(), self.destination)
                k.move_mount(clone.fileno(), target.fileno())

    def _clone_part(self, root_fd: int) -> OwnedFd:
        """Clone what the path leads to; only what is mounted somewhere can be cloned (before Linux 6.15)."""
        with make_filesystem("tmpfs", "tmpfs", ("mode=700", "size=4k"), 0) as top:
            k.move_mount(top.fileno(), root_fd)
            try:
                return self._clone_below(top.fileno())
            finally:
                k.umount2(f"/proc/self/fd/{top.fileno()}", k.MNT_DETACH)

    def _clone_below(self, top_fd: int) -> OwnedFd:
        os.mkdir(_PLACE, 0o700, dir_fd=top_fd)
        with OwnedFd(os.open(_PLACE, os.O_PATH | os.O_DIRECTORY, dir_fd=top_fd)) as place:
            self._mount_all(place.fileno())
        # Opened by its name: what is mounted there, not what is below.
        with OwnedFd(os.open(_PLACE, _DIRECTORY, dir_fd=top_fd)) as view:
            try:
                part = open_in_root(view.fileno(), self.part)
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise InvalidParameterError(f"cannot access path {self.part}: {reason}") from None
            with part:
                clone = OwnedFd(k.open_tree(part.fileno(), "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH))
        k.mount_setattr(clone.fileno(), "", attr_set=k.MOUNT_ATTR_RDONLY)
        return clone
