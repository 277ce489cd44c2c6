"""File systems on block devices: a container's root (the storage driver ``devicemapper``), images, volumes.

They are mounted before init is made: init is in its cgroup, which lets it open no device but its own.
"""

from __future__ import annotations

from orlop.kernel import mount as k
from orlop.runtime.operations import MountFilesystem, make_filesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.operations import Operation
    from orlop.spec.launch import DeviceRoot


def mount_device(device: DeviceRoot, attributes: int = 0) -> OwnedFd:
    """Return a detached mount of the device's file system.

    All mounts of one device are of one file system, so they have to agree on whether it is read-only: a view of one
    that can be written is so by its mount alone.

    Raises:
        OSError: the device is gone, or holds something else.
    """
    parameters = ("ro", *device.options) if device.sealed else device.options
    if device.sealed or device.view:
        attributes |= k.MOUNT_ATTR_RDONLY
    return make_filesystem(device.kind, device.path, parameters, attributes)


def mount_devices(operations: Sequence[Operation]) -> Iterator[tuple[int, OwnedFd]]:
    """Yield the places of operations that mount a block device, with detached mounts of them."""
    for place, operation in enumerate(operations):
        if isinstance(operation, MountFilesystem) and operation.source.startswith("/dev/"):
            yield place, operation.make()
