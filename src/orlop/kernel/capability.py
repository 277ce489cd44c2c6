"""capget(2), capset(2) and the names of capabilities(7)."""

from __future__ import annotations

import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# include/uapi/linux/capability.h, by number from 0
NAMES: tuple[str, ...] = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
        *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
        *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
        *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
        "CHECKPOINT_RESTORE",
    )
)
NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}

# The sets are 64 bits wide since version 3: two words of 32.
_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
_DATA = struct.Struct("=6I")
_WORD = 0xFFFF_FFFF

_capget = prototype("capget", ctypes.c_char_p, ctypes.c_char_p)
_capset = prototype("capset", ctypes.c_char_p, ctypes.c_char_p)

_last_cap: int | None = None


@dataclass(frozen=True)
class CapabilitySets:
    """The three sets that capget(2) tells, as bit masks by capability number."""

    effective: int
    permitted: int
    inheritable: int


def last_cap() -> int:
    """Return the highest capability number of the running kernel.

    Reads /proc once: the first call must come before a process enters a container's root.

    Raises:
        OSError: there is no /proc.
    """
    global _last_cap
    if _last_cap is None:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            _last_cap = int(file.read(32))
    return _last_cap


def mask(names: Iterable[str]) -> int:
    """Return the bit mask of ``CAP_`` names. Raises KeyError for a name that does not exist."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def capget(pid: int = 0) -> CapabilitySets:
    """Return the sets of a thread; 0 is the calling one."""
    data = ctypes.create_string_buffer(_DATA.size)
    check(_capget(_HEADER.pack(_VERSION_3, pid), data), "capget", pid)
    words = _DATA.unpack(data.raw)
    low, high = words[:3], words[3:]
    return CapabilitySets(*(low[i] | high[i] << 32 for i in range(3)))


def capset(sets: CapabilitySets) -> None:
    """Set the calling thread's sets.

    Raises:
        SyscallError: EPERM: more permitted than before, effective beyond permitted, or inheritable beyond bounding.
    """
    check(_capset(*encode(sets)), "capset", hex(sets.effective), hex(sets.permitted), hex(sets.inheritable))


def encode(sets: CapabilitySets) -> tuple[bytes, bytes]:
    """Return the header and data that :func:`capset` gives to the kernel."""
    values = (sets.effective, sets.permitted, sets.inheritable)
    for value in values:
        if not 0 <= value < 1 << 64:
            raise ValueError(f"not a capability mask: {value:#x}")
    words = [value & _WORD for value in values] + [value >> 32 for value in values]
    return _HEADER.pack(_VERSION_3, 0), _DATA.pack(*words)
