"""RDMA handles and objects: Documentation/admin-guide/cgroup-v1/rdma.rst; the same on v2."""

from __future__ import annotations

from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the writes."""
    writes = []
    for one in resources.rdma:
        values = (("hca_handle", one.handles), ("hca_object", one.objects))
        given = " ".join(f"{key}={value}" for key, value in values if value is not None)
        if given:
            writes.append(Write("rdma", "rdma.max", f"{one.device} {given}"))
    return writes


v2 = v1
