"""Making, joining and signalling processes: clone3, setns, unshare, pidfd_open, pidfd_send_signal, close_range."""

from __future__ import annotations

import os
import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import NUMBERS, SyscallError, call, check, libc, prototype

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_NEWTIME = 0x80
CLONE_PARENT = 0x8000
CLONE_PIDFD = 0x1000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000
CLOSE_RANGE_UNSHARE = 2
SIGCHLD = 17
MAX_FD = 0xFFFFFFFF

_unshare = prototype("unshare", ctypes.c_int)
_setns = prototype("setns", ctypes.c_int, ctypes.c_int)
# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
# cgroup
_CLONE_ARGS = struct.Struct("=11Q")


def clone3(flags: int, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """clone3(2) without a new stack: like fork. Returns (0, -1) in the child, (pid, pidfd) in the parent.

    Only for a single-threaded process: Python's fork hooks do not run.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd is not None else 0)
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD  # with CLONE_PARENT the kernel takes the caller's own
    packed = _CLONE_ARGS.pack(flags, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd or 0)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    result = int(libc.syscall(ctypes.c_long(NUMBERS["clone3"]), buffer, ctypes.c_size_t(len(packed))))
    if result < 0:
        raise SyscallError("clone3", ctypes.get_errno(), (hex(flags),))
    return (0, -1) if result == 0 else (result, pidfd.value)


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(_unshare(flags), "unshare", hex(flags))


def setns(fd: int, flags: int = 0) -> None:
    """setns(2); with a pidfd ``flags`` may name several namespaces at once."""
    check(_setns(fd, flags), "setns", fd, hex(flags))


def pidfd_open(pid: int) -> int:
    """pidfd_open(2); the descriptor is close-on-exec."""
    return call("pidfd_open", pid, 0)


def pidfd_pid(pidfd: int) -> int:
    """Return the pid that a pidfd stands for (pidfd_open(2), "fdinfo"); -1 when the process has been reaped."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return int(next(line for line in text.split(b"\n") if line.startswith(b"Pid:"))[4:])


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """pidfd_send_signal(2). Raises ProcessLookupError when the process has been reaped."""
    call("pidfd_send_signal", pidfd, signal, None, 0)


def close_range(first: int, last: int) -> None:
    """close_range(2)."""
    call("close_range", first, last, 0)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on that ``keep`` does not name. Nothing is allocated per descriptor."""
    first = 3
    for fd in sorted({fd for fd in keep if fd >= 3}):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first, MAX_FD)


def start_time(pid: int) -> int:
    """Return the start time of a process in clock ticks after boot (proc_pid_stat(5), field 22)."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return int(text[text.rindex(b")") + 2 :].split()[19])


_setdomainname = prototype("setdomainname", ctypes.c_char_p, ctypes.c_size_t)


def in_user_namespace() -> bool:
    """Whether this process is in a user namespace that somebody made: in the machine's own each id is itself."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except FileNotFoundError:  # a kernel without user namespaces
        return False


def outer_uid() -> int:
    """Return the effective user id as the parent of this process's user namespace has it (user_namespaces(7)).

    In the machine's own namespace it is the id itself. Raises ValueError: it is mapped to none.
    """
    own = os.geteuid()
    with open("/proc/self/uid_map", encoding="ascii") as file:
        for line in file:
            inside, outside, length = map(int, line.split())
            if inside <= own < inside + length:
                return outside + own - inside
    raise ValueError(f"user id {own} is mapped to none")


def setdomainname(name: bytes) -> None:
    """setdomainname(2): the NIS domain of the UTS namespace."""
    check(_setdomainname(name, len(name)), "setdomainname", name)


_CPUS = range(os.sysconf("SC_NPROCESSORS_CONF"))


def allow_every_cpu() -> None:
    """sched_setaffinity(2) to every CPU there is; the kernel keeps it within the cgroup's cpuset.

    Since Linux 6.2 a mask that was asked for (taskset(1) of whoever started us) is kept when a task changes its cpuset.
    Refused where no CPU of the set is left, or by a sandbox around us: then the inherited mask is all there is.
    """
    try:
        os.sched_setaffinity(0, _CPUS)
    except OSError:
        return
