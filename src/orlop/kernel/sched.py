"""Scheduling attributes and I/O priority of one process: sched_setattr(2), ioprio_set(2)."""

from __future__ import annotations

import struct

from orlop.kernel.syscall import call

# include/uapi/linux/sched.h
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
# include/uapi/linux/ioprio.h
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IOPRIO_CLASS_SHIFT = 13
_IOPRIO_WHO_PROCESS = 1

# struct sched_attr, SCHED_ATTR_SIZE_VER1: size, policy, flags, nice, priority, runtime, deadline, period, and the two
# clamps of utilisation, which are 0
_ATTR = struct.Struct("=IIQiIQQQ8x")


def sched_setattr(
    pid: int, policy: int, *, flags: int = 0, nice: int = 0, priority: int = 0, times: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """sched_setattr(2) of a thread (0: this one); ``times`` are runtime, deadline and period in nanoseconds.

    Raises:
        SyscallError: EPERM without CAP_SYS_NICE; EINVAL for what the policy does not take; EBUSY when the machine
            cannot keep a deadline; EOPNOTSUPP for a clamp on a kernel without CONFIG_UCLAMP_TASK.
    """
    attr = _ATTR.pack(_ATTR.size, policy, flags, nice, priority, *times)
    call("sched_setattr", pid, attr, 0, shown=(pid, policy, hex(flags), nice, priority, *times))


def ioprio_set(pid: int, io_class: int, priority: int) -> None:
    """ioprio_set(2) of one process (0: this one). Raises SyscallError: EPERM for the real-time class."""
    call("ioprio_set", _IOPRIO_WHO_PROCESS, pid, io_class << _IOPRIO_CLASS_SHIFT | priority)
