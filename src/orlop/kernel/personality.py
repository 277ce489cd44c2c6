"""personality(2): the execution domain."""

from __future__ import annotations

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype

# include/uapi/linux/personality.h
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}

_personality = prototype("personality", ctypes.c_ulong)


def personality(domain: int) -> None:
    """personality(2); inherited by children and kept over execve."""
    check(_personality(domain), "personality", hex(domain))
