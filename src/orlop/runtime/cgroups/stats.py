"""A cgroup's accounting in the shape of Docker's ``GET /containers/{id}/stats`` (cpu, memory, pids, blkio)."""

from __future__ import annotations

import os

from orlop.runtime.cgroups.events import counters
from orlop.runtime.cgroups.files import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue

# what the kernel shows for "no limit" on v1: the largest multiple of the page size
UNLIMITED = 2**63 - 1
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _number(path: str) -> int:
    try:
        text = read_text(path).strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _numbers(path: str) -> list[JsonValue]:
    try:
        return [int(word) for word in read_text(path).split() if word.isdecimal()]
    except OSError:
        return []


def _pids(directory: str | None) -> JsonObject:
    if directory is None:
        return {}
    limit = _number(f"{directory}/pids.max")
    # Docker shows "max" as the largest number
    return {"current": _number(f"{directory}/pids.current"), "limit": limit or 2**64 - 1}


def v1_stats(directories: dict[str, str]) -> JsonObject:
    """Read v1's files; ``directories`` by controller."""
    cpu, account = directories.get("cpu", ""), directories.get("cpuacct", "")
    times = counters(f"{account}/cpuacct.stat")
    throttling = counters(f"{cpu}/cpu.stat")
    memory = directories.get("memory", "")
    statistics: JsonObject = dict(counters(f"{memory}/memory.stat"))
    return {
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": _number(f"{account}/cpuacct.usage"),
                "percpu_usage": _numbers(f"{account}/cpuacct.usage_percpu"),
                "usage_in_kernelmode": times.get("system", 0) * _TICK_NS,
                "usage_in_usermode": times.get("user", 0) * _TICK_NS,
            },
            "throttling_data": {
                "periods": throttling.get("nr_periods", 0),
                "throttled_periods": throttling.get("nr_throttled", 0),
                "throttled_time": throttling.get("throttled_time", 0),
            },
        },
        "memory_stats": {
            "usage": _number(f"{memory}/memory.usage_in_bytes"),
            "max_usage": _number(f"{memory}/memory.max_usage_in_bytes"),
            "stats": statistics,
            "failcnt": _number(f"{memory}/memory.failcnt"),
            "limit": _number(f"{memory}/memory.limit_in_bytes"),
        },
        "pids_stats": _pids(directories.get("pids")),
        "blkio_stats": {
            "io_service_bytes_recursive": _blkio(directories.get("blkio"), "io_service_bytes"),
            "io_serviced_recursive": _blkio(directories.get("blkio"), "io_serviced"),
        },
    }


def _blkio(directory: str | None, name: str) -> list[JsonValue]:
    """BFQ's recursive file where that scheduler counts, else the throttler's."""
    for file in (f"blkio.bfq.{name}_recursive", f"blkio.throttle.{name}_recursive", f"blkio.throttle.{name}"):
        entries: list[JsonValue] = []
        try:
            text = read_text(f"{directory}/{file}")
        except OSError:
            continue
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and words[2].isdecimal():
                entries.append(_entry(words[0], words[1], int(words[2])))
        if entries:
            return entries
    return []


def _entry(device: str, operation: str, value: int) -> JsonObject:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": value}


def v2_stats(directory: str) -> JsonObject:
    """Read v2's files."""
    cpu = counters(f"{directory}/cpu.stat")
    events = counters(f"{directory}/memory.events")
    statistics: JsonObject = dict(counters(f"{directory}/memory.stat"))
    return {
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": cpu.get("usage_usec", 0) * 1000,
                "usage_in_kernelmode": cpu.get("system_usec", 0) * 1000,
                "usage_in_usermode": cpu.get("user_usec", 0) * 1000,
            },
            "throttling_data": {
                "periods": cpu.get("nr_periods", 0),
                "throttled_periods": cpu.get("nr_throttled", 0),
                "throttled_time": cpu.get("throttled_usec", 0) * 1000,
            },
        },
        "memory_stats": {
            "usage": _number(f"{directory}/memory.current"),
            "stats": statistics,
            "failcnt": events.get("max", 0),
            "limit": _number(f"{directory}/memory.max") or UNLIMITED,
        },
        "pids_stats": _pids(directory),
        "blkio_stats": {"io_service_bytes_recursive": _io(directory)},
    }


def _io(directory: str) -> list[JsonValue]:
    try:
        text = read_text(f"{directory}/io.stat")
    except OSError:
        return []
    entries: list[JsonValue] = []
    for line in text.splitlines():
        device, *pairs = line.split()
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in ("rbytes", "wbytes") and value.isdecimal():
                entries.append(_entry(device, "read" if key == "rbytes" else "write", int(value)))
    return entries
