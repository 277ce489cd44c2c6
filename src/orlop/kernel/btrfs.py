"""btrfs subvolumes and snapshots by ioctl(2): linux/btrfs.h, btrfs-ioctl(2)."""

from __future__ import annotations

import fcntl
import os
import struct

SUPER_MAGIC = 0x9123683E
# Inode number of every subvolume's root directory (BTRFS_FIRST_FREE_OBJECTID).
SUBVOLUME_INODE = 256

# _IOW(0x94, nr, size of struct btrfs_ioctl_vol_args or _vol_args_v2, both 4096)
_SUBVOL_CREATE = 0x5000940E
_SNAP_DESTROY = 0x5000940F
_SNAP_CREATE_V2 = 0x50009417
_SUBVOL_GETFLAGS = 0x80089419
_SUBVOL_SETFLAGS = 0x4008941A
_QUOTA_CTL = 0xC0109428
_QGROUP_CREATE = 0x4010942A
_QGROUP_LIMIT = 0x8030942B
_QUOTA_CTL_ENABLE, _LIMIT_MAX_RFER = 1, 1
SUBVOL_RDONLY = 1 << 1

# (Python copies at most 1024 bytes of an immutable argument, hence the bytearrays.)
_ARGS = struct.Struct("=q4088s")  # struct btrfs_ioctl_vol_args: fd, name
_ARGS_V2 = struct.Struct("=qQQ32x4040s")  # fd, transid, flags, unused, name
_FLAGS = struct.Struct("=Q")
_QUOTA = struct.Struct("=QQ")  # struct btrfs_ioctl_quota_ctl_args: cmd, status
_QGROUP = struct.Struct("=QQ")  # struct btrfs_ioctl_qgroup_create_args: create, qgroupid
# struct btrfs_ioctl_qgroup_limit_args: qgroupid (0: of the descriptor's subvolume), flags, max_rfer, and others
_LIMIT = struct.Struct("=QQQ24x")
_INO_LOOKUP = 0xD0009412
_LOOKUP = struct.Struct("=QQ4080x")  # struct btrfs_ioctl_ino_lookup_args: treeid, objectid, name
_NAME = 255


def subvolume_create(parent_fd: int, name: str) -> None:
    """BTRFS_IOC_SUBVOL_CREATE: an empty subvolume ``name`` in the directory ``parent_fd``."""
    fcntl.ioctl(parent_fd, _SUBVOL_CREATE, bytearray(_ARGS.pack(0, _name(name))))


def snapshot_create(source_fd: int, parent_fd: int, name: str) -> None:
    """BTRFS_IOC_SNAP_CREATE_V2: a writable snapshot of a subvolume."""
    fcntl.ioctl(parent_fd, _SNAP_CREATE_V2, bytearray(_ARGS_V2.pack(source_fd, 0, 0, _name(name))))


def subvolume_destroy(parent_fd: int, name: str | bytes) -> None:
    """BTRFS_IOC_SNAP_DESTROY: ENOTEMPTY while another subvolume is in it. The space is given back later."""
    fcntl.ioctl(parent_fd, _SNAP_DESTROY, bytearray(_ARGS.pack(0, _name(name))))


def set_read_only(fd: int, *, read_only: bool) -> None:
    """BTRFS_IOC_SUBVOL_SETFLAGS on a subvolume's root."""
    (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _SUBVOL_GETFLAGS, bytes(_FLAGS.size)))
    flags = flags | SUBVOL_RDONLY if read_only else flags & ~SUBVOL_RDONLY
    fcntl.ioctl(fd, _SUBVOL_SETFLAGS, _FLAGS.pack(flags))


def quota_enable(fd: int) -> None:
    """BTRFS_IOC_QUOTA_CTL: count what subvolumes hold; no change where it is counted already."""
    fcntl.ioctl(fd, _QUOTA_CTL, _QUOTA.pack(_QUOTA_CTL_ENABLE, 0))


def subvolume_limit(fd: int, size: int) -> None:
    """BTRFS_IOC_QGROUP_LIMIT: let a subvolume, with what it shares with others, have ``size`` bytes."""
    fcntl.ioctl(fd, _QGROUP_LIMIT, _LIMIT.pack(0, _LIMIT_MAX_RFER, size))


def subvolume_id(fd: int) -> int:
    """BTRFS_IOC_INO_LOOKUP: the number of the subvolume that a descriptor is in."""
    buffer = bytearray(_LOOKUP.pack(0, SUBVOLUME_INODE))
    fcntl.ioctl(fd, _INO_LOOKUP, buffer)
    return int(_LOOKUP.unpack(buffer)[0])


def quota_forget(fd: int, subvolume: int) -> None:
    """BTRFS_IOC_QGROUP_CREATE, to destroy: count and limit of a subvolume that was destroyed."""
    fcntl.ioctl(fd, _QGROUP_CREATE, _QGROUP.pack(0, subvolume))


def _name(name: str | bytes) -> bytes:
    raw = os.fsencode(name)
    if not raw or len(raw) > _NAME or b"/" in raw or b"\0" in raw:
        raise ValueError(f"not a file name: {name!r:.80}")
    return raw
