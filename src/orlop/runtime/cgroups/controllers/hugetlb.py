"""Huge pages: Documentation/admin-guide/cgroup-v1/hugetlb.rst. The reservation limit came later and is set with it."""

from __future__ import annotations

from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return the writes."""
    return _writes(resources, "limit_in_bytes")


def v2(resources: Resources) -> list[Write]:
    """Return the writes."""
    return _writes(resources, "max")


def _writes(resources: Resources, suffix: str) -> list[Write]:
    writes = []
    for one in resources.hugepages:
        writes.append(Write("hugetlb", f"hugetlb.{one.page_size}.{suffix}", str(one.limit)))
        writes.append(Write("hugetlb", f"hugetlb.{one.page_size}.rsvd.{suffix}", str(one.limit), optional=True))
    return writes
