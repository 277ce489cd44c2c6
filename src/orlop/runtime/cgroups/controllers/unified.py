"""``linux.resources.unified``: files of cgroup v2 by name; the parser has checked that they are limits."""

from __future__ import annotations

from orlop.errors import UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return nothing, or refuse."""
    if resources.unified:
        raise UnsupportedError("linux.resources.unified is not supported on cgroup v1")
    return []


def v2(resources: Resources) -> list[Write]:
    """Return the writes: one per line, since io.max and the like take one device a write."""
    return [
        Write(file.split(".", 1)[0], file, line)
        for file, text in resources.unified
        for line in text.splitlines() or [""]
    ]
