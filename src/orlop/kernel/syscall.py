"""The one place that loads libc, and the error that a failed kernel call raises.

Every wrapper in ``orlop.kernel`` goes through :func:`call` or through a prototype made by :func:`prototype` at import
time, so that argument types and errno are never left to chance (threats.md J5).
"""

from __future__ import annotations

import errno as errno_names
import os

from orlop.kernel import foreign as ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import _NamedFuncPointer
    from typing import Self

libc = ctypes.CDLL(None, use_errno=True)

MACHINE = os.uname().machine

# Numbers from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (the same above 424).
_X86_64 = {
    "pivot_root": 155,
    "keyctl": 250,
    "renameat2": 316,
    "seccomp": 317,
    "bpf": 321,
    "ioprio_set": 251,
    "sched_setattr": 314,
    "set_mempolicy": 238,
    "rt_sigaction": 13,
}
_GENERIC = {
    "pivot_root": 41,
    "keyctl": 219,
    "renameat2": 276,
    "seccomp": 277,
    "bpf": 280,
    "ioprio_set": 30,
    "sched_setattr": 274,
    "set_mempolicy": 237,
    "rt_sigaction": 134,
}
_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "statmount": 457,
    "listmount": 458,
}
NUMBERS: dict[str, int] = {**(_X86_64 if MACHINE == "x86_64" else _GENERIC), **_COMMON}

_syscall = libc.syscall
_syscall.restype = ctypes.c_long


_specific_classes: dict[tuple[type, type], type] = {}


class SyscallError(OSError):
    """A kernel call failed: names the operation, every argument and errno.

    An instance is also of the built-in class for its errno (FileNotFoundError, BlockingIOError, ...), as errors of the
    standard library are.

    Attributes:
        operation: the man-page name of the call.
        arguments: what it was given, rendered, flags by name where the wrapper knows them.
    """

    def __new__(cls, _operation: str, errno: int, _arguments: Sequence[object] = ()) -> Self:
        """Choose the class for ``errno``."""
        specific = type(OSError(errno, ""))
        if specific is OSError or issubclass(cls, specific):
            return super().__new__(cls, errno, os.strerror(errno))
        key = (cls, specific)
        if key not in _specific_classes:
            _specific_classes[key] = type(cls.__name__, (cls, specific), {"__module__": cls.__module__})
        made: Self = OSError.__new__(_specific_classes[key], errno, os.strerror(errno))
        return made

    def __init__(self, operation: str, errno: int, arguments: Sequence[object] = ()) -> None:
        super().__init__(errno, os.strerror(errno))  # has no effect on the attributes: __new__ set them
        self.operation = operation
        self.arguments = tuple(str(argument) for argument in arguments)

    def __str__(self) -> str:
        name = errno_names.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.operation}({', '.join(self.arguments)}): {(self.strerror or '').lower()} ({name})"


def call(name: str, *args: object, shown: Sequence[object] | None = None) -> int:
    """Make the system call ``name`` with integer, bytes, None or ctypes arguments; integers travel as 64 bits.

    Args:
        name: a key of :data:`NUMBERS`.
        args: ``int`` (passed as a long), ``bytes`` (pointer), ``None`` (NULL) or a ctypes pointer.
        shown: the arguments as the error should show them (default: ``args``).

    Raises:
        SyscallError: the kernel returned an error.
    """
    converted = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in args]
    result = int(_syscall(ctypes.c_long(NUMBERS[name]), *converted))
    if result < 0:
        raise SyscallError(name, ctypes.get_errno(), args if shown is None else shown)
    return result


def load_library(name: str) -> ctypes.CDLL:
    """Load another library that only some machines have. Raises OSError."""
    return ctypes.CDLL(name, use_errno=True)


def prototype(name: str, *argtypes: type) -> _NamedFuncPointer:
    """Return libc's function ``name`` with its argument types set; it returns an int and sets errno."""
    function = libc[name]
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function


def check(result: int, operation: str, *arguments: object) -> int:
    """Return ``result``, or raise :class:`SyscallError` from errno when it is negative."""
    if result < 0:
        raise SyscallError(operation, ctypes.get_errno(), arguments)
    return result
