"""Block devices, and the file systems on them that grow while they are mounted: linux/fs.h, ext4.h, xfs_fs.h."""

from __future__ import annotations

import fcntl
import os
import struct

_BLKGETSIZE64, _BLKDISCARD = 0x80081272, 0x1277
_EXT4_IOC_RESIZE_FS = 0x40086610  # _IOW('f', 16, __u64)
_XFS_IOC_FSGEOMETRY_V1, _XFS_IOC_FSGROWFSDATA = 0x80705864, 0x4010586E
_NUMBER = struct.Struct("=Q")
_RANGE = struct.Struct("=QQ")
_GROWFS = struct.Struct("=QI4x")  # struct xfs_growfs_data: newblocks, imaxpct
_GEOMETRY_V1_BYTES, _IMAXPCT_AT = 112, 28


def size(fd: int) -> int:
    """BLKGETSIZE64: the bytes of a block device."""
    return int(_NUMBER.unpack(fcntl.ioctl(fd, _BLKGETSIZE64, bytes(_NUMBER.size)))[0])


def discard(fd: int, length: int) -> None:
    """BLKDISCARD: tell a device that nobody needs its first ``length`` bytes. EOPNOTSUPP: it cannot know."""
    fcntl.ioctl(fd, _BLKDISCARD, _RANGE.pack(0, length))


def grow_ext4(mount_fd: int, length: int) -> None:
    """EXT4_IOC_RESIZE_FS: let a mounted ext4, of which a directory is given, have ``length`` bytes of its device."""
    block = os.fstatvfs(mount_fd).f_frsize
    fcntl.ioctl(mount_fd, _EXT4_IOC_RESIZE_FS, _NUMBER.pack(length // block))


def grow_xfs(mount_fd: int, length: int) -> None:
    """XFS_IOC_FSGROWFSDATA: the same for xfs."""
    geometry = fcntl.ioctl(mount_fd, _XFS_IOC_FSGEOMETRY_V1, bytes(_GEOMETRY_V1_BYTES))
    (percent,) = struct.unpack_from("=I", geometry, _IMAXPCT_AT)
    block = os.fstatvfs(mount_fd).f_frsize
    fcntl.ioctl(mount_fd, _XFS_IOC_FSGROWFSDATA, _GROWFS.pack(length // block, percent))
