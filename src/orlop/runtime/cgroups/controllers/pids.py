"""The number of tasks: Documentation/admin-guide/cgroup-v1/pids.rst."""

from __future__ import annotations

from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the write: a negative limit is unlimited, 0 leaves it alone (as Docker and runc take it)."""
    limit = resources.pids_limit
    if not limit:
        return []
    return [Write("pids", "pids.max", str(limit) if limit > 0 else "max")]


v2 = v1
