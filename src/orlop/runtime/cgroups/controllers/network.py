"""Traffic class and priority of sockets: cgroup-v1/net_cls.rst and net_prio.rst. v2 has neither."""

from __future__ import annotations

from orlop.errors import UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the writes."""
    writes = []
    if resources.class_id:
        writes.append(Write("net_cls", "net_cls.classid", str(resources.class_id)))
    writes.extend(
        Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}") for name, priority in resources.priorities
    )
    return writes


def v2(resources: Resources) -> list[Write]:
    """Return nothing, or refuse."""
    if resources.class_id or resources.priorities:
        raise UnsupportedError("linux.resources.network is not supported on cgroup v2")
    return []
