"""Making a file system as another user: overlayfs acts on its layers with the ids of who mounted it."""

from __future__ import annotations

import errno

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import SyscallError, check, prototype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2

_prctl = prototype("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_setfsuid = prototype("setfsuid", ctypes.c_int)
_setfsgid = prototype("setfsgid", ctypes.c_int)


class mounting_as:
    """Have the file system ids ``uid`` and ``gid`` within, and all capabilities (capabilities(7), securebits)."""

    __slots__ = ("_bits", "_gid", "_old", "_uid")

    def __init__(self, uid: int, gid: int) -> None:
        self._uid, self._gid = uid, gid

    def __enter__(self) -> None:
        self._bits = check(_prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0), "prctl", "PR_GET_SECUREBITS")
        check(_prctl(_PR_SET_SECUREBITS, self._bits | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl", "PR_SET_SECUREBITS")
        # they return the former id and tell no errors
        self._old = (_setfsuid(self._uid), _setfsgid(self._gid))
        if (_setfsuid(-1), _setfsgid(-1)) != (self._uid, self._gid):
            raise SyscallError("setfsuid", errno.EPERM, (self._uid, self._gid))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _setfsuid(self._old[0])
        _setfsgid(self._old[1])
        check(_prctl(_PR_SET_SECUREBITS, self._bits, 0, 0, 0), "prctl", "PR_SET_SECUREBITS")
