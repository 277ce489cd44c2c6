"""fstatfs(2) and syncfs(2): which kind of file system a descriptor is on, and having it written out."""

from __future__ import annotations

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype

# include/uapi/linux/magic.h
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
OVERLAYFS_SUPER_MAGIC = 0x794C7630

# struct statfs is 120 bytes on 64-bit machines and begins with a long, f_type
_STATFS_BYTES = 256

_fstatfs = prototype("fstatfs", ctypes.c_int, ctypes.c_char_p)
_syncfs = prototype("syncfs", ctypes.c_int)


def file_system_type(fd: int) -> int:
    """Return ``f_type``, one of the magic numbers of this module or another."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    check(_fstatfs(fd, buffer), "fstatfs", fd)
    return int(ctypes.c_ulong.from_buffer(buffer).value)


def syncfs(fd: int) -> None:
    """syncfs(2): write a file system out. Since Linux 5.8 it tells what could not be written and nobody knows yet."""
    check(_syncfs(fd), "syncfs", fd)
