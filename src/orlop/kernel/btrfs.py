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
SUBVOL_RDONLY = 1 << 1

# (Python copies at most 1024 bytes of an immutable argument, hence the bytearrays.)
_ARGS = struct.Struct("=q4088s")  # struct btrfs_ioctl_vol_args: fd, name
_ARGS_V2 = struct.Struct("=qQQ32x4040s")  # fd, transid, flags, unused, name
_FLAGS = struct.Struct("=Q")
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


def _name(name: str | bytes) -> bytes:
    raw = os.fsencode(name)
    if not raw or len(raw) > _NAME or b"/" in raw or b"\0" in raw:
        raise ValueError(f"not a file name: {name!r:.80}")
    return raw
