"""CPUs and memory nodes: cpuset(7).

On v1 a new cpuset is empty and refuses processes, so every new directory is first given its parent's values
(:data:`INHERITED`); on v2 an empty file means the parent's.
"""

from __future__ import annotations

from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources

INHERITED = ("cpuset.cpus", "cpuset.mems")


def v1(resources: Resources) -> list[Write]:
    """Return the writes."""
    return [
        Write("cpuset", file, value)
        for file, value in (("cpuset.cpus", resources.cpu.cpus), ("cpuset.mems", resources.cpu.mems))
        if value
    ]


v2 = v1
