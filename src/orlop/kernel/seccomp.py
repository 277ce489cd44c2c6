"""seccomp(2): install a filter from a buffer that was made beforehand."""

from __future__ import annotations

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import NUMBERS, SyscallError, libc

# include/uapi/linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": 1 << 3,
    "SECCOMP_FILTER_FLAG_TSYNC_ESRCH": 1 << 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
_NEW_LISTENER = FLAGS["SECCOMP_FILTER_FLAG_NEW_LISTENER"]

RET_KILL_PROCESS = 0x8000_0000
RET_KILL_THREAD = 0x0000_0000
RET_TRAP = 0x0003_0000
RET_ERRNO = 0x0005_0000
RET_USER_NOTIF = 0x7FC0_0000
RET_TRACE = 0x7FF0_0000
RET_LOG = 0x7FFC_0000
RET_ALLOW = 0x7FFF_0000

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6];
DATA_NR = 0
DATA_ARCH = 4
DATA_ARGS = 16

# BPF_MAXINSNS
MAX_INSTRUCTIONS = 4096
INSTRUCTION_BYTES = 8


class _Fprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_syscall = libc.syscall
_NUMBER = ctypes.c_long(NUMBERS["seccomp"])
_OPERATION = ctypes.c_ulong(SECCOMP_SET_MODE_FILTER)


class FilterProgram:
    """A classic BPF program with the ``struct sock_fprog`` that points to it, ready for the kernel.

    Holds its own memory, so that nothing is converted between a filter's installation and execve, where
    a page fault's or allocator's system call could already be refused.
    """

    __slots__ = ("_buffer", "_flags", "_fprog", "_pointer")

    def __init__(self, code: bytes, *, flags: int = 0) -> None:
        count, rest = divmod(len(code), INSTRUCTION_BYTES)
        if rest or not 0 < count <= MAX_INSTRUCTIONS:
            raise ValueError(f"not a BPF program: {len(code)} bytes")
        self._buffer = ctypes.create_string_buffer(code, len(code))
        self._fprog = _Fprog(count, ctypes.addressof(self._buffer))
        self._pointer = ctypes.byref(self._fprog)
        self._flags = ctypes.c_ulong(flags)

    def __len__(self) -> int:
        return int(self._fprog.len)

    @property
    def code(self) -> bytes:
        """The instructions."""
        return self._buffer.raw

    @property
    def flags(self) -> int:
        """The flags that it is installed with."""
        return int(self._flags.value)

    def install(self) -> int:
        """Put the filter before every later system call of this thread; cannot be undone.

        Returns:
            A close-on-exec descriptor of the listener with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.

        Raises:
            SyscallError: EACCES without no_new_privs and without CAP_SYS_ADMIN; EINVAL for a bad program.
        """
        result = int(_syscall(_NUMBER, _OPERATION, self._flags, self._pointer))
        if result < 0 or (result > 0 and not self._flags.value & _NEW_LISTENER):
            # with TSYNC a positive result is the thread that could not follow
            raise SyscallError("seccomp", ctypes.get_errno(), ("SECCOMP_SET_MODE_FILTER", self._flags.value, len(self)))
        return result
