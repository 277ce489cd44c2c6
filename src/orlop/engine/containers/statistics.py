"""``docker stats``: the cgroup's and the network's counters in Docker's document."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from orlop.spec.docker.times import ZERO, rfc3339
from orlop.spec.json import JsonValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.engine.containers.container import Container
    from orlop.spec.json import JsonObject

_LINK = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
# each is in every sample: clients look them up unasked
_BLOCK = tuple(
    f"{name}_recursive"
    for name in (
        *("io_service_bytes", "io_serviced", "io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time"),
        "sectors",
    )
)


def stats_document(
    container: Container,
    counters: JsonObject,
    links: Mapping[str, object],
    *,
    before: JsonObject | None,
) -> JsonObject:
    """Return one sample; ``before`` is the sample before it, whose CPU numbers become ``precpu_stats``."""
    cpu = counters.get("cpu_stats")
    current: JsonObject = dict(cpu) if isinstance(cpu, dict) else {"cpu_usage": {"total_usage": 0}}
    current["system_cpu_usage"] = _system_cpu()
    memory = counters.get("memory_stats")
    if isinstance(memory, dict):
        limit = memory.get("limit")
        memory["limit"] = min(limit, _MEMORY) if isinstance(limit, int) and limit > 0 else _MEMORY
    block = counters.get("blkio_stats")
    current["online_cpus"] = os.cpu_count() or 1
    document: JsonObject = {
        "read": rfc3339(time.time_ns()),
        "preread": before["read"] if before is not None else ZERO,
        "pids_stats": {},
        "memory_stats": {},
        **counters,
        "blkio_stats": {**{name: list[JsonValue]() for name in _BLOCK}, **(block if isinstance(block, dict) else {})},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": current,
        "precpu_stats": before["cpu_stats"] if before is not None else _EMPTY,
        "name": f"/{container.name}",
        "id": container.id,
    }
    if links:
        document["networks"] = {name: {field: _count(link, field) for field in _LINK} for name, link in links.items()}
    return document


_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_EMPTY: JsonValue = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def idle_document(container: Container) -> JsonObject:
    """Return the sample of a container that does not run."""
    return {
        "read": ZERO,
        "preread": ZERO,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_BLOCK),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _EMPTY,
        "precpu_stats": _EMPTY,
        "memory_stats": {},
        "name": f"/{container.name}",
        "id": container.id,
    }


def _count(link: object, field: str) -> int:
    value = getattr(link, field, 0)
    return value if isinstance(value, int) else 0


def _system_cpu() -> int:
    """Nanoseconds that all CPUs of the host have spent, first line of /proc/stat."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:8]]
    return sum(ticks) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
