"""How a container's processes run: scheduler, I/O priority, CPUs, memory policy, personality.

Only for configurations that name one of these; see :mod:`orlop.runtime.loading`.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.kernel import mempolicy, sched
from orlop.kernel.personality import DOMAINS, personality
from orlop.kernel.syscall import SyscallError

# policies whose nice value sched_setattr(2) sets; the others keep the caller's, and the specification says 0
_SET_NICE = frozenset({"SCHED_OTHER", "SCHED_BATCH"})

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.spec.oci import Linux, Process


def schedule(process: Process, linux: Linux, *, by_parent: bool = False) -> None:
    """Set what decides how the caller's program runs, but for its CPUs.

    Args:
        process: with scheduler and I/O priority.
        linux: with memory policy and personality.
        by_parent: the first two take capabilities of the host, which only the parent has; it sets them.
    """
    if not by_parent:
        set_scheduling(process)
    set_memory_and_personality(linux)


def set_scheduling(process: Process, pid: int = 0) -> None:
    """Set scheduler and I/O priority of a process (0: the caller).

    Raises:
        InvalidParameterError: the kernel refuses them.
    """
    scheduler, priority = process.scheduler, process.io_priority
    if scheduler is not None:
        flags = sum(sched.FLAGS[flag] for flag in set(scheduler.flags))
        try:
            sched.sched_setattr(
                pid,
                sched.POLICIES[scheduler.policy],
                flags=flags,
                nice=scheduler.nice,
                priority=scheduler.priority,
                times=(scheduler.runtime, scheduler.deadline, scheduler.period),
            )
            if scheduler.policy not in _SET_NICE:
                os.setpriority(os.PRIO_PROCESS, pid, scheduler.nice)
        except OSError as error:
            raise InvalidParameterError(f"error setting scheduler {scheduler.policy}: {error}") from error
    if priority is not None:
        try:
            sched.ioprio_set(pid, sched.IO_CLASSES[priority.io_class], priority.priority)
        except SyscallError as error:
            raise InvalidParameterError(f"error setting I/O priority {priority.io_class}: {error}") from error


def set_memory_and_personality(linux: Linux) -> None:
    """Set the caller's memory policy and personality, which its program keeps.

    Raises:
        InvalidParameterError: the kernel refuses them.
    """
    policy = linux.memory_policy
    if policy is not None:
        flags = sum(mempolicy.FLAGS[flag] for flag in set(policy.flags))
        try:
            mempolicy.set_mempolicy(mempolicy.MODES[policy.mode] | flags, policy.nodes)
        except SyscallError as error:
            raise InvalidParameterError(f"error setting memory policy {policy.mode}: {error}") from error
    if linux.personality is not None:
        personality(DOMAINS[linux.personality])


def set_affinity(cpus: Iterable[int]) -> None:
    """Run on these CPUs only; nothing changes when there are none. Raises InvalidParameterError."""
    numbers = sorted(cpus)
    if not numbers:
        return
    try:
        os.sched_setaffinity(0, numbers)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParameterError(f"error setting CPU affinity {numbers!r:.80}: {reason}") from error
