"""The memory controller: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the writes. The limit goes first: a new cgroup's memory+swap limit is unlimited."""
    memory = resources.memory
    writes = []
    limits = (
        ("memory.limit_in_bytes", memory.limit),
        ("memory.memsw.limit_in_bytes", memory.swap),
        ("memory.soft_limit_in_bytes", memory.reservation),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp),
    )
    for file, value in limits:
        # 0 is "not given" in Docker's API and in runc
        if value:
            writes.append(Write("memory", file, str(value)))
    if memory.swappiness is not None:
        writes.append(Write("memory", "memory.swappiness", str(memory.swappiness)))
    if memory.disable_oom_killer:
        writes.append(Write("memory", "memory.oom_control", "1"))
    return writes


def v2(resources: Resources) -> list[Write]:
    """Return the writes. v2 limits swap alone, so the memory limit is subtracted."""
    memory = resources.memory
    for name, asked in (
        ("kernelTCP", memory.kernel_tcp),
        ("swappiness", memory.swappiness is not None),
        ("disableOOMKiller", memory.disable_oom_killer),
    ):
        if asked:
            raise UnsupportedError(f"linux.resources.memory.{name} is not supported on cgroup v2")
    writes = []
    swap = _swap_alone(memory.limit or 0, memory.swap or 0)
    if swap is not None:
        # a kernel without swap accounting cannot exceed a swap limit of zero either
        writes.append(Write("memory", "memory.swap.max", swap, optional=swap in ("0", "max")))
    if memory.limit:
        writes.append(Write("memory", "memory.max", _text(memory.limit)))
    if memory.reservation:
        writes.append(Write("memory", "memory.low", _text(memory.reservation)))
    return writes


def _swap_alone(limit: int, both: int) -> str | None:
    if both == 0:
        return "max" if limit == -1 else None
    if both == -1:
        return "max"
    if limit <= 0:
        raise InvalidParameterError("unable to set swap limit without memory limit")
    return str(both - limit)


def _text(value: int) -> str:
    return "max" if value < 0 else str(value)
