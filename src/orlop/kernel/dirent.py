"""getdents64(2), for the one thing that :func:`os.scandir` hides: whether the file system fills in ``d_type``."""

from __future__ import annotations

import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype

DT_UNKNOWN = 0
DT_DIR = 4
_BUFFER = 4096
_HEAD = struct.Struct("=QqHB")  # struct linux_dirent64: d_ino, d_off, d_reclen, d_type; then d_name

_getdents64 = prototype("getdents64", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def getdents64(fd: int) -> list[tuple[bytes, int]]:
    """Return the next entries of an open directory as (name, d_type); empty at its end.

    Raises:
        SyscallError: the kernel refused.
    """
    buffer = ctypes.create_string_buffer(_BUFFER)
    size = check(_getdents64(fd, buffer, _BUFFER), "getdents64", fd)
    entries = []
    position = 0
    while position < size:
        _, _, length, kind = _HEAD.unpack_from(buffer.raw, position)
        name = buffer.raw[position + _HEAD.size : position + length].split(b"\0", 1)[0]
        entries.append((name, kind))
        position += length
    return entries
