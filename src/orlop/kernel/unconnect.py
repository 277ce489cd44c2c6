"""Undoing connect(2)."""

from __future__ import annotations

import socket
import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype

_connect = prototype("connect", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_NOWHERE = struct.pack("=H14x", socket.AF_UNSPEC)


def disconnect(fd: int) -> None:
    """Take a datagram socket's peer away, and its port unless it was bound: the next connect(2) gets another."""
    check(_connect(fd, _NOWHERE, len(_NOWHERE)), "connect", fd, "AF_UNSPEC")
