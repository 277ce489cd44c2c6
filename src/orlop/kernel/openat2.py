"""openat2(2): open a path with limits on how it is resolved."""

from __future__ import annotations

import os
import struct

from orlop.kernel.syscall import call

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve


def openat2(dir_fd: int, path: bytes | str, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """Open ``path`` relative to ``dir_fd``; the descriptor is close-on-exec only if ``flags`` say so.

    Raises:
        SyscallError: among others EXDEV (a limit was met), ELOOP (a link where none may be), EAGAIN (a race; retry).
    """
    name = os.fsencode(path)
    how = _HOW.pack(flags, mode, resolve)
    return call("openat2", dir_fd, name, how, _HOW.size, shown=(dir_fd, name, hex(flags), oct(mode), hex(resolve)))
