"""Limits as properties of a unit (org.freedesktop.systemd1(5), systemd.resource-control(5)).

Every limit is written to the cgroup's files as well, which is exact and covers what systemd has no property for. The
properties are there because systemd writes its own idea of a unit's limits whenever it sees a reason to.
"""

from __future__ import annotations

from orlop.runtime.cgroups.controllers.cpu import DEFAULT_PERIOD, checked_shares, weight_of
from orlop.runtime.cgroups.controllers.memory import swap_alone
from orlop.spec.cpuset import parse_cpuset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups.systemd.wire import Value
    from orlop.spec.oci import Resources

    # name, signature and value
    Property = tuple[str, str, Value]

UNLIMITED = 2**64 - 1
_IDLE_WEIGHT = 0
# systemd keeps a quota in steps of this many microseconds per second
_STEP = 10_000


def unit_properties(resources: Resources) -> list[Property]:
    """Return what the scope is told; what is not mentioned stays as it is."""
    return [*_memory(resources), *_cpu(resources), *_cpuset(resources), *_pids(resources), *_unified(resources)]


def _memory(resources: Resources) -> list[Property]:
    memory = resources.memory
    found: list[Property] = []
    if memory.limit:
        found.append(("MemoryMax", "t", _limit(memory.limit)))
    if memory.reservation:
        found.append(("MemoryLow", "t", _limit(memory.reservation)))
    swap = swap_alone(memory.limit or 0, memory.swap or 0)
    if swap is not None:
        found.append(("MemorySwapMax", "t", _limit(swap)))
    return found


def _cpu(resources: Resources) -> list[Property]:
    cpu = resources.cpu
    found: list[Property] = []
    shares = checked_shares(cpu.shares)
    if cpu.idle:
        found.append(("CPUWeight", "t", _IDLE_WEIGHT))
    elif shares:
        found.append(("CPUWeight", "t", weight_of(shares)))
    if cpu.quota or cpu.period:
        found += _quota(cpu.quota or -1, cpu.period or DEFAULT_PERIOD)
    return found


def _quota(quota: int, period: int) -> list[Property]:
    """Time per second, rounded up: systemd would round it down to nothing."""
    per_second = UNLIMITED if quota < 0 else -(-quota * 1_000_000 // period // _STEP) * _STEP
    return [("CPUQuotaPeriodUSec", "t", period), ("CPUQuotaPerSecUSec", "t", per_second)]


def _cpuset(resources: Resources) -> list[Property]:
    cpu = resources.cpu
    return [
        (name, "ay", _mask(text))
        for name, text in (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems))
        if text
    ]


def _mask(text: str) -> bytes:
    """Return a bit for each number, lowest first."""
    mask = sum(1 << number for number in parse_cpuset(text))
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _pids(resources: Resources) -> list[Property]:
    limit = resources.pids_limit
    return [("TasksMax", "t", _limit(limit))] if limit else []


_BYTES = {
    "memory.min": "MemoryMin",
    "memory.low": "MemoryLow",
    "memory.high": "MemoryHigh",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def _unified(resources: Resources) -> list[Property]:
    """What systemd has a property for; the files take the rest, and say what is wrong with a value."""
    found: list[Property] = []
    for file, text in resources.unified:
        value = text.strip()
        if file in _BYTES and (value == "max" or value.isdecimal()):
            found.append((_BYTES[file], "t", UNLIMITED if value == "max" else int(value)))
        elif file == "cpu.max":
            quota, _, period = value.partition(" ")
            if quota == "max" or quota.isdecimal():
                microseconds = int(period) if period.isdecimal() and int(period) else DEFAULT_PERIOD
                found += _quota(-1 if quota == "max" else int(quota), microseconds)
        elif file in ("cpuset.cpus", "cpuset.mems") and value:
            found.append(("AllowedCPUs" if file == "cpuset.cpus" else "AllowedMemoryNodes", "ay", _mask(value)))
    return found


def _limit(value: int) -> int:
    return UNLIMITED if value < 0 else value
