"""Layers without a writable one, mounted below the root (``--mount type=image``). Only where one is asked for."""

from __future__ import annotations

import errno

from orlop.kernel import mount as k
from orlop.primitives.rootpath import mkdir_all_in_root
from orlop.runtime.mount_targets import check_target
from orlop.runtime.rootfs import mount_overlay, mount_overlay_at
from orlop.spec.launch import OverlayRoot
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.operations import Root

# Of an overlay in a configuration: one layer, topmost first. The kernel knows it since 6.8, this runtime without it.
LAYER_OPTION = "lowerdir+="


@dataclass(frozen=True, slots=True)
class MountLayers:
    """Mount layers, topmost first, read-only."""

    layers: tuple[str, ...]
    destination: str

    def describe(self) -> str:
        """Return it as one line of text."""
        return f"layers {self.destination} {':'.join(self.layers)}"

    def apply(self, root: Root) -> None:
        """Mount them."""
        view = OverlayRoot(self.layers)
        with mkdir_all_in_root(root.fd, self.destination) as target:
            check_target(root.fd, target.fileno(), self.destination)
            try:
                with mount_overlay(view) as tree:
                    k.move_mount(tree.fileno(), target.fileno())
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # The path is this process's own name of the descriptor: the host's /proc is still there.
                mount_overlay_at(view, f"/proc/self/fd/{target.fileno()}")
        root.mounted(self.destination)
