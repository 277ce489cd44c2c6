"""mount(2) and the file-descriptor based mount API: fsopen, fsconfig, fsmount, open_tree, move_mount, mount_setattr."""

from __future__ import annotations

import os
import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import SyscallError, call, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_FLAG_NAMES = {
    value: name for name, value in list(globals().items()) if name.startswith("MS_") and isinstance(value, int)
}
_ATTR = struct.Struct("=QQQQ")  # struct mount_attr: attr_set, attr_clr, propagation, userns_fd

libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


class MountError(SyscallError):
    """A mount operation failed."""


def flag_names(flags: int) -> str:
    """Return mount(2) flags by name, joined with ``|``."""
    return "|".join(name for value, name in _FLAG_NAMES.items() if flags & value) or "0"


def _call(name: str, *args: object, shown: Sequence[object] | None = None) -> int:
    try:
        return call(name, *args, shown=shown)
    except SyscallError as error:
        raise MountError(error.operation, error.errno or 0, error.arguments) from None


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    raw = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    if libc.mount(raw[0], raw[1], raw[2], flags, raw[3]) < 0:
        raise MountError("mount", ctypes.get_errno(), (source, target, fstype, flag_names(flags), data))


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if libc.umount2(os.fsencode(target), flags) < 0:
        raise MountError("umount2", ctypes.get_errno(), (target, hex(flags)))


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", os.fsencode(new_root), os.fsencode(put_old))


def fsopen(fstype: str) -> int:
    """fsopen(2); returns a close-on-exec descriptor of a file system context."""
    return _call("fsopen", fstype.encode(), FSOPEN_CLOEXEC)


def fsconfig_set_string(fs_fd: int, key: str, value: str) -> None:
    """fsconfig(FSCONFIG_SET_STRING); the kernel takes at most 255 bytes."""
    _call(
        "fsconfig",
        fs_fd,
        FSCONFIG_SET_STRING,
        key.encode(),
        os.fsencode(value),
        0,
        shown=(fs_fd, "SET_STRING", key, value),
    )


def escape_overlay(path: str, *, several: bool = False) -> str:
    """Escape a path for overlay's ``upperdir`` and ``workdir``, which take a backslash as an escape.

    ``lowerdir+`` does not and must be given the path as it is; ``lowerdir`` (``several``) also has ``:`` between paths.
    """
    escaped = path.replace("\\", "\\\\")
    return escaped.replace(":", "\\:") if several else escaped


def fsconfig_set_flag(fs_fd: int, key: str) -> None:
    """fsconfig(FSCONFIG_SET_FLAG)."""
    _call("fsconfig", fs_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0, shown=(fs_fd, "SET_FLAG", key))


def fsconfig_set_fd(fs_fd: int, key: str, fd: int) -> None:
    """fsconfig(FSCONFIG_SET_FD); EINVAL where the parameter takes none."""
    _call("fsconfig", fs_fd, FSCONFIG_SET_FD, key.encode(), None, fd, shown=(fs_fd, "SET_FD", key, fd))


def fsconfig_create(fs_fd: int) -> None:
    """fsconfig(FSCONFIG_CMD_CREATE): make the superblock."""
    _call("fsconfig", fs_fd, FSCONFIG_CMD_CREATE, None, None, 0, shown=(fs_fd, "CMD_CREATE"))


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """fsmount(2); returns a close-on-exec descriptor of a detached mount."""
    return _call("fsmount", fs_fd, FSMOUNT_CLOEXEC, attributes)


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """open_tree(2); with OPEN_TREE_CLONE a detached copy of the mount at ``path``."""
    return _call("open_tree", dir_fd, os.fsencode(path), flags | OPEN_TREE_CLOEXEC)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """move_mount(2) of a detached mount onto the inode of ``target_fd``: no path is resolved (threats.md B1)."""
    _call("move_mount", mount_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def mount_setattr(
    dir_fd: int,
    path: str,
    *,
    attr_set: int = 0,
    attr_clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2); an empty ``path`` means ``dir_fd`` itself."""
    attr = _ATTR.pack(attr_set, attr_clear, propagation, userns_fd)
    flags = (AT_RECURSIVE if recursive else 0) | (AT_EMPTY_PATH if not path else 0)
    shown = (
        dir_fd,
        path,
        hex(flags),
        f"set={attr_set:#x}",
        f"clear={attr_clear:#x}",
        f"propagation={flag_names(propagation)}",
    )
    _call("mount_setattr", dir_fd, os.fsencode(path), flags, attr, _ATTR.size, shown=shown)
