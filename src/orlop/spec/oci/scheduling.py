"""How a process runs: scheduler, I/O priority, CPUs, memory nodes and personality of the runtime-spec.

Loaded only for configurations that name one of them.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.cpuset import parse_cpuset
from orlop.spec.oci.fields import UINT64_MAX, Fields
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonValue

INT32_MAX = 2**31 - 1
INT32_MIN = -(2**31)

POLICIES = frozenset(f"SCHED_{name}" for name in ("OTHER", "FIFO", "RR", "BATCH", "IDLE", "DEADLINE"))
SCHEDULER_FLAGS = frozenset(
    f"SCHED_FLAG_{name}"
    for name in (
        *("RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX"),
    )
)
IO_CLASSES = frozenset(f"IOPRIO_CLASS_{name}" for name in ("RT", "BE", "IDLE"))
PERSONALITIES = frozenset({"LINUX", "LINUX32"})
MEMORY_MODES = frozenset(
    f"MPOL_{name}"
    for name in ("DEFAULT", "BIND", "INTERLEAVE", "WEIGHTED_INTERLEAVE", "PREFERRED", "PREFERRED_MANY", "LOCAL")
)
MEMORY_FLAGS = frozenset(f"MPOL_F_{name}" for name in ("NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES"))
_WITHOUT_NODES = frozenset({"MPOL_DEFAULT", "MPOL_LOCAL"})
_EXCLUSIVE = frozenset({"MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"})
# MAX_NUMNODES of a kernel with CONFIG_NODES_SHIFT=10
MAX_NODE = 1023


@dataclass(frozen=True)
class Scheduler:
    """``process.scheduler``: sched(7); times in nanoseconds, for SCHED_DEADLINE only."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True)
class IoPriority:
    """``process.ioPriority``: ioprio_set(2); ``priority`` 0 (highest) to 7."""

    io_class: str
    priority: int = 0


@dataclass(frozen=True)
class CpuAffinity:
    """``process.execCPUAffinity``: CPUs of an exec before and after it joined the cgroup; empty leaves them."""

    initial: frozenset[int] = frozenset()
    final: frozenset[int] = frozenset()


@dataclass(frozen=True)
class MemoryPolicy:
    """``linux.memoryPolicy``: set_mempolicy(2)."""

    mode: str
    nodes: frozenset[int] = frozenset()
    flags: tuple[str, ...] = ()


def parse_scheduler(value: JsonValue, path: str) -> Scheduler | None:
    """Read ``process.scheduler``.

    Raises:
        InvalidParameterError: malformed, or what the policy does not have: a nice value under FIFO, a deadline under
            OTHER, a real-time priority of 0.
        UnsupportedError: SCHED_ISO, which Linux never had.
    """
    if value is None:
        return None
    known = frozenset({"policy", "nice", "priority", "flags", "runtime", "deadline", "period"})
    fields = Fields(value, path, known=known, strict=True)
    if fields.value("policy") == "SCHED_ISO":
        raise UnsupportedError(f"{fields.at('policy')}: SCHED_ISO is not implemented by Linux")
    scheduler = Scheduler(
        fields.choice("policy", POLICIES),
        fields.integer("nice", INT32_MIN, INT32_MAX) or 0,
        fields.integer("priority", INT32_MIN, INT32_MAX) or 0,
        fields.choices("flags", SCHEDULER_FLAGS),
        *(fields.integer(name, 0, UINT64_MAX) or 0 for name in ("runtime", "deadline", "period")),
    )
    _check_scheduler(scheduler, path)
    return scheduler


def _check_scheduler(scheduler: Scheduler, path: str) -> None:
    """Refuse what sched_setattr(2) would refuse with EINVAL alone, or silently ignore."""
    policy = scheduler.policy
    real_time = policy in {"SCHED_FIFO", "SCHED_RR"}
    if real_time and not 1 <= scheduler.priority <= 99:
        raise InvalidParameterError(f"{path}.priority: {policy} takes 1..99: {scheduler.priority}")
    if not real_time and scheduler.priority:
        raise InvalidParameterError(f"{path}.priority: {policy} has none: {scheduler.priority}")
    if scheduler.nice and policy not in {"SCHED_OTHER", "SCHED_BATCH"}:
        raise InvalidParameterError(f"{path}.nice: {policy} has none: {scheduler.nice}")
    if not -20 <= scheduler.nice <= 19:
        raise InvalidParameterError(f"{path}.nice: out of range -20..19: {scheduler.nice}")
    times = scheduler.runtime or scheduler.deadline or scheduler.period
    if times and policy != "SCHED_DEADLINE":
        raise InvalidParameterError(f"{path}: {policy} takes no runtime, deadline or period")
    if policy == "SCHED_DEADLINE":
        period = scheduler.period or scheduler.deadline
        if not 0 < scheduler.runtime <= scheduler.deadline <= period:
            raise InvalidParameterError(f"{path}: SCHED_DEADLINE takes 0 < runtime <= deadline <= period")


def parse_io_priority(value: JsonValue, path: str) -> IoPriority | None:
    """Read ``process.ioPriority``. Raises InvalidParameterError."""
    if value is None:
        return None
    fields = Fields(value, path, known=frozenset({"class", "priority"}), strict=True)
    priority = fields.integer("priority", INT32_MIN, INT32_MAX) or 0
    if not 0 <= priority <= 7:
        raise InvalidParameterError(f"{fields.at('priority')}: out of range 0..7: {priority}")
    return IoPriority(fields.choice("class", IO_CLASSES), priority)


def parse_cpu_affinity(value: JsonValue, path: str) -> CpuAffinity | None:
    """Read ``process.execCPUAffinity``. Raises InvalidParameterError."""
    if value is None:
        return None
    fields = Fields(value, path, known=frozenset({"initial", "final"}), strict=True)
    return CpuAffinity(_numbers(fields, "initial"), _numbers(fields, "final"))


def parse_personality(value: JsonValue, path: str) -> str | None:
    """Read ``linux.personality``; returns its domain.

    Raises:
        InvalidParameterError: another domain than LINUX and LINUX32.
        UnsupportedError: a flag; the specification has none yet.
    """
    if value is None:
        return None
    fields = Fields(value, path, known=frozenset({"domain", "flags"}), strict=True)
    if fields.strings("flags"):
        raise UnsupportedError(f"{fields.at('flags')} is not supported")
    return fields.choice("domain", PERSONALITIES)


def parse_memory_policy(value: JsonValue, path: str) -> MemoryPolicy | None:
    """Read ``linux.memoryPolicy``.

    Raises:
        InvalidParameterError: malformed, nodes where the mode takes none or none where it takes some, or flags that
            exclude each other (set_mempolicy(2)).
    """
    if value is None:
        return None
    fields = Fields(value, path, known=frozenset({"mode", "nodes", "flags"}), strict=True)
    policy = MemoryPolicy(
        fields.choice("mode", MEMORY_MODES),
        _numbers(fields, "nodes", maximum=MAX_NODE),
        fields.choices("flags", MEMORY_FLAGS),
    )
    if policy.mode in _WITHOUT_NODES and (policy.nodes or policy.flags):
        raise InvalidParameterError(f"{path}: {policy.mode} takes neither nodes nor flags")
    if policy.mode not in _WITHOUT_NODES and policy.mode != "MPOL_PREFERRED" and not policy.nodes:
        raise InvalidParameterError(f"{path}.nodes: {policy.mode} takes at least one node")
    if _EXCLUSIVE.issubset(policy.flags):
        raise InvalidParameterError(f"{path}.flags: exclude each other: {' '.join(sorted(_EXCLUSIVE))}")
    if "MPOL_F_NUMA_BALANCING" in policy.flags and policy.mode not in {"MPOL_BIND", "MPOL_PREFERRED_MANY"}:
        raise InvalidParameterError(f"{path}.flags: MPOL_F_NUMA_BALANCING does not go with {policy.mode}")
    return policy


def _numbers(fields: Fields, name: str, *, maximum: int = 8191) -> frozenset[int]:
    text = fields.string(name)
    if not frozenset("0123456789, -").issuperset(text):
        raise InvalidParameterError(f"{fields.at(name)}: invalid format: {text!r:.80}")
    try:
        return parse_cpuset(text.replace(" ", ""), maximum=maximum)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{fields.at(name)}: {error}") from None
