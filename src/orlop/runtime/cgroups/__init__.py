"""Control groups: where a container's limits are kept and its processes are counted.

``detect`` once, then ``create_cgroup`` or ``open_cgroup``. Light: loaded in the spawner, used in the shim.
"""

from __future__ import annotations

from orlop.runtime.cgroups.hierarchy import Hierarchies, Hierarchy, detect, require_systemd
from orlop.runtime.cgroups.opening import create_cgroup, create_cgroup_if_permitted, open_cgroup
from orlop.runtime.cgroups.path import normalise_path

__all__ = [
    "Hierarchies",
    "Hierarchy",
    "create_cgroup",
    "create_cgroup_if_permitted",
    "detect",
    "normalise_path",
    "open_cgroup",
    "require_systemd",
]
