"""prctl(2): one function per operation that the runtime uses."""

from __future__ import annotations

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47

PR_CAP_AMBIENT_IS_SET = 1
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# The length of a task's name in the kernel, its NUL included (TASK_COMM_LEN).
NAME_BYTES = 16

_prctl = prototype("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_prctl_pointer = prototype("prctl", ctypes.c_int, ctypes.c_char_p)


def _call(operation: int, name: str, argument: int = 0, second: int = 0) -> int:
    return check(_prctl(operation, argument, second, 0, 0), "prctl", name, argument, second)


def set_dumpable(value: int) -> None:
    """Allow (1) or forbid (0) core dumps and ptrace by processes of the same user (CVE-2016-9962)."""
    _call(PR_SET_DUMPABLE, "PR_SET_DUMPABLE", value)


def get_dumpable() -> int:
    """Return 0, 1 or 2 (readable by root only)."""
    return _call(PR_GET_DUMPABLE, "PR_GET_DUMPABLE")


def set_no_new_privs() -> None:
    """Make execve never grant more privileges; cannot be undone."""
    _call(PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS", 1)


def get_no_new_privs() -> bool:
    """Whether execve can grant no more privileges."""
    return _call(PR_GET_NO_NEW_PRIVS, "PR_GET_NO_NEW_PRIVS") == 1


def set_pdeathsig(signal: int) -> None:
    """Have ``signal`` sent when the parent *thread* ends; cleared by a change of credentials. 0 clears."""
    _call(PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG", signal)


def set_keepcaps(keep: bool) -> None:  # noqa: FBT001 - the call's one argument
    """Keep the permitted set when the user ids become non-zero; cleared by execve."""
    _call(PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS", int(keep))


def capbset_read(capability: int) -> bool:
    """Whether the capability is in the bounding set; EINVAL when the kernel does not know it."""
    return _call(PR_CAPBSET_READ, "PR_CAPBSET_READ", capability) == 1


def capbset_drop(capability: int) -> None:
    """Drop from the bounding set; needs CAP_SETPCAP."""
    _call(PR_CAPBSET_DROP, "PR_CAPBSET_DROP", capability)


def cap_ambient_clear_all() -> None:
    """Empty the ambient set."""
    _call(PR_CAP_AMBIENT, "PR_CAP_AMBIENT_CLEAR_ALL", PR_CAP_AMBIENT_CLEAR_ALL)


def cap_ambient_raise(capability: int) -> None:
    """Add to the ambient set; it must be permitted and inheritable (EPERM)."""
    _call(PR_CAP_AMBIENT, "PR_CAP_AMBIENT_RAISE", PR_CAP_AMBIENT_RAISE, capability)


def set_child_subreaper(enabled: bool) -> None:  # noqa: FBT001 - the call's one argument
    """Become the parent of orphaned descendants."""
    _call(PR_SET_CHILD_SUBREAPER, "PR_SET_CHILD_SUBREAPER", int(enabled))


def set_name(name: bytes) -> None:
    """Set the calling thread's name, as ``ps`` shows it; cut at 15 bytes by the kernel."""
    check(_prctl_pointer(PR_SET_NAME, name[: NAME_BYTES - 1]), "prctl", "PR_SET_NAME", name)
