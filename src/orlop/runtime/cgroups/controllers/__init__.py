"""One controller per file: resources in, an ordered list of file writes out. Nothing here touches a file."""

from __future__ import annotations

from orlop.runtime.cgroups.controllers import blkio, cpu, cpuset, devices, hugetlb, memory, network, pids, rdma, unified
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources

__all__ = ["Write", "v1_writes", "v2_writes"]

_BOTH = (cpuset, cpu, memory, pids, blkio, hugetlb, network, rdma)


def v1_writes(resources: Resources) -> list[Write]:
    """Return everything that a v1 cgroup is told, in order."""
    return [write for module in (*_BOTH, unified, devices) for write in module.v1(resources)]


def v2_writes(resources: Resources) -> list[Write]:
    """Return everything that a v2 cgroup is told by files, in order; devices are a program instead.

    Raises:
        InvalidParameterError: ``unified`` gives a file another value than the fields do.
    """
    writes = [write for module in _BOTH for write in module.v2(resources)]
    unified.refuse_contradictions(resources, writes)
    return writes + unified.v2(resources)
