"""The memory controller: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the writes. The limit goes first: a new cgroup's memory+swap limit is unlimited.

    Kernels from 5.11 on refuse accounting that is not hierarchical; what they say is what is told.
    """
    memory = resources.memory
    writes = []
    if memory.use_hierarchy is not None:
        # on: what a kernel without the file does anyway
        text = str(int(memory.use_hierarchy))
        writes.append(Write("memory", "memory.use_hierarchy", text, optional=memory.use_hierarchy))
    limits = (
        ("memory.limit_in_bytes", memory.limit),
        # unlimited memory within a limit of memory and swap would be a contradiction
        ("memory.memsw.limit_in_bytes", memory.swap or (-1 if memory.limit == -1 else None)),
        ("memory.soft_limit_in_bytes", memory.reservation),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp),
    )
    for file, value in limits:
        # 0 is "not given" in Docker's API and in runc; a kernel that does not count swap cannot limit it either
        if value:
            optional = file == "memory.memsw.limit_in_bytes" and value == -1
            writes.append(Write("memory", file, str(value), optional=optional))
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
        ("useHierarchy false", memory.use_hierarchy is False),
    ):
        if asked:
            raise UnsupportedError(f"linux.resources.memory.{name} is not supported on cgroup v2")
    writes = []
    swap = swap_alone(memory.limit or 0, memory.swap or 0)
    if swap is not None:
        text = unlimited_or(swap)
        # a kernel without swap accounting cannot exceed a swap limit of zero either
        writes.append(Write("memory", "memory.swap.max", text, optional=text in ("0", "max")))
    if memory.limit:
        writes.append(Write("memory", "memory.max", unlimited_or(memory.limit)))
    if memory.reservation:
        writes.append(Write("memory", "memory.low", unlimited_or(memory.reservation)))
    return writes


def swap_alone(limit: int, both: int) -> int | None:
    """Return v2's limit of swap from v1's of memory and of memory+swap; -1 is none, None leaves it alone.

    Raises:
        InvalidParameterError: a limit of both without one of memory, or below it; runc's words.
    """
    if both == 0:
        return -1 if limit == -1 else None
    if both == -1:
        return -1
    if limit <= 0:
        raise InvalidParameterError("unable to set swap limit without memory limit")
    if both < limit:
        raise InvalidParameterError("memory+swap limit should be >= memory limit")
    return both - limit


def unlimited_or(value: int) -> str:
    """Return v2's text of a limit."""
    return "max" if value < 0 else str(value)
