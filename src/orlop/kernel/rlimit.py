"""prlimit(2): resource limits by their names."""

from __future__ import annotations

import struct

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import SyscallError, check, prototype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.spec.oci.process import Rlimit

# include/uapi/asm-generic/resource.h; the same on x86 and Arm
NUMBERS: dict[str, int] = {
    f"RLIMIT_{name}": number
    for number, name in enumerate(
        (
            *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS"),
            *("SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
        ),
    )
}

INFINITY = (1 << 64) - 1

_RLIMIT = struct.Struct("=QQ")
_prlimit = prototype("prlimit", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a limit of a process (0: this one). ``INFINITY`` is none.

    Raises:
        SyscallError: EPERM: the hard limit would rise without CAP_SYS_RESOURCE; EINVAL: soft is above hard.
        ValueError: a limit does not fit 64 bits.
    """
    if not (0 <= soft <= INFINITY and 0 <= hard <= INFINITY):
        raise ValueError(f"limit out of range: {soft}:{hard}")
    check(_prlimit(pid, resource, _RLIMIT.pack(soft, hard), None), "prlimit", pid, resource, soft, hard)


def get_rlimit(resource: int, pid: int = 0) -> tuple[int, int]:
    """Return the soft and the hard limit."""
    buffer = ctypes.create_string_buffer(_RLIMIT.size)
    check(_prlimit(pid, resource, None, buffer), "prlimit", pid, resource)
    soft, hard = _RLIMIT.unpack(buffer.raw)
    return soft, hard


def set_rlimits(limits: Sequence[Rlimit], *, pid: int = 0) -> None:
    """Set resource limits, in order; before the privileges go, as raising one needs CAP_SYS_RESOURCE.

    Raises:
        InvalidParameterError: a limit that does not exist.
        SystemFailureError: the kernel refused, in runc's words.
    """
    for limit in limits:
        number = NUMBERS.get(limit.type)
        if number is None:
            raise InvalidParameterError(f"invalid rlimit type: {limit.type}")
        try:
            prlimit(pid, number, limit.soft, limit.hard)
        except SyscallError as error:
            reason = (error.strerror or "").lower()
            raise SystemFailureError(f"error setting rlimit type {number}: {reason}") from error
