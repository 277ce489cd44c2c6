"""Which limits this machine has, for ``docker info`` and its warnings."""

from __future__ import annotations

import os

from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.cgroups.hierarchy import Hierarchies


@dataclass(frozen=True)
class Features:
    """One field per limit, named as in Docker's ``/info``."""

    memory_limit: bool
    swap_limit: bool
    oom_kill_disable: bool
    cpu_shares: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_set: bool
    pids_limit: bool
    blkio_weight: bool
    devices: bool
    freezer: bool


def probe_features(hierarchies: Hierarchies) -> Features:
    """Look which files there are."""
    if hierarchies.version == 2:
        have = hierarchies.controllers
        swap = "memory" in have and os.path.exists("/proc/swaps")
        return Features(
            memory_limit="memory" in have,
            swap_limit=swap,
            oom_kill_disable=False,
            cpu_shares="cpu" in have,
            cpu_cfs_period="cpu" in have,
            cpu_cfs_quota="cpu" in have,
            cpu_set="cpuset" in have,
            pids_limit="pids" in have,
            blkio_weight="io" in have,
            devices=True,
            freezer=True,
        )

    def has(controller: str, file: str) -> bool:
        directory = hierarchies.directory(controller)
        return directory is not None and os.path.exists(f"{directory}/{file}")

    return Features(
        memory_limit=has("memory", "memory.limit_in_bytes"),
        swap_limit=has("memory", "memory.memsw.limit_in_bytes"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_cfs_period=has("cpu", "cpu.cfs_period_us"),
        cpu_cfs_quota=has("cpu", "cpu.cfs_quota_us"),
        cpu_set=has("cpuset", "cpuset.cpus"),
        # the root has no pids.max; the controller's presence is what there is to ask
        pids_limit="pids" in hierarchies.controllers,
        blkio_weight=has("blkio", "blkio.weight") or has("blkio", "blkio.bfq.weight"),
        devices=has("devices", "devices.allow"),
        freezer="freezer" in hierarchies.controllers,
    )
