"""A cgroup's accounting in runc's words (its ``types.Stats``), which callers of ``events`` parse.

Pure functions from the cgroup's files; what a kernel or a configuration does not have is left out, or 0 where runc
always has a number.
"""

from __future__ import annotations

import os

from orlop.spec.cpuset import parse_cpuset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.spec.json import JsonObject, JsonValue

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UNLIMITED = 2**64 - 1
_CPUSET = ("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page")
_CPUSET_REST = ("memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level")


def v1_statistics(directories: Mapping[str, str]) -> JsonObject:
    """Read v1's files.

    Args:
        directories: the cgroup's directory by controller.
    """
    hugetlb = directories.get("hugetlb")
    return {
        "cpu": _v1_cpu(directories.get("cpu"), directories.get("cpuacct")),
        "cpuset": _v1_cpuset(directories.get("cpuset")),
        "memory": _v1_memory(directories.get("memory")),
        "pids": _pids(directories.get("pids")),
        "blkio": _v1_blkio(directories.get("blkio")),
        "hugetlb": _hugetlb(hugetlb, "usage_in_bytes", "max_usage_in_bytes"),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def v2_statistics(directory: str) -> JsonObject:
    """Read v2's files."""
    return {
        "cpu": _v2_cpu(directory),
        "cpuset": _cpuset({}),
        "memory": _v2_memory(directory),
        "pids": _pids(directory),
        "blkio": _v2_blkio(directory),
        "hugetlb": _hugetlb(directory, "current", ""),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def oom_kills(directory: str) -> int:
    """Return how many processes of a v2 cgroup and below were killed for want of memory."""
    return _counters(directory, "memory.events").get("oom_kill", 0)


def _v1_cpu(cpu: str | None, account: str | None) -> JsonObject:
    times, stat = _counters(account, "cpuacct.stat"), _counters(cpu, "cpu.stat")
    per_cpu: dict[str, list[JsonValue]] = {"percpu_kernel": [], "percpu_user": []}
    for line in _text(account, "cpuacct.usage_all").splitlines()[1:]:  # the header: cpu user system
        words = line.split()
        if len(words) == 3:
            per_cpu["percpu_user"].append(int(words[1]))
            per_cpu["percpu_kernel"].append(int(words[2]))
    throttling = (stat.get("nr_periods", 0), stat.get("nr_throttled", 0), stat.get("throttled_time", 0))
    return {
        "usage": {
            **_some({"total": _number(account, "cpuacct.usage")}),
            **_some({"percpu": [int(word) for word in _text(account, "cpuacct.usage_percpu").split()], **per_cpu}),
            "kernel": times.get("system", 0) * _TICK_NS,
            "user": times.get("user", 0) * _TICK_NS,
        },
        "throttling": _throttling(*throttling),
    }


def _v2_cpu(directory: str) -> JsonObject:
    stat = _counters(directory, "cpu.stat")
    throttling = (stat.get("nr_periods", 0), stat.get("nr_throttled", 0), stat.get("throttled_usec", 0) * 1000)
    return {
        "usage": {
            **_some({"total": stat.get("usage_usec", 0) * 1000}),
            "kernel": stat.get("system_usec", 0) * 1000,
            "user": stat.get("user_usec", 0) * 1000,
        },
        "throttling": _throttling(*throttling),
    }


def _throttling(periods: int, throttled: int, nanoseconds: int) -> JsonObject:
    return _some({"periods": periods, "throttledPeriods": throttled, "throttledTime": nanoseconds})


def _v1_cpuset(directory: str | None) -> JsonObject:
    found = {name: _number(directory, f"cpuset.{name}") for name in (*_CPUSET, *_CPUSET_REST)}
    lists = {name: _text(directory, f"cpuset.{name}").strip() for name in ("cpus", "mems")}
    return _cpuset(found, **lists)


def _cpuset(found: Mapping[str, int], cpus: str = "", mems: str = "") -> JsonObject:
    one: dict[str, JsonValue] = _some({"cpus": [*sorted(parse_cpuset(cpus))]})
    two: dict[str, JsonValue] = _some({"mems": [*sorted(parse_cpuset(mems))]})
    names = {name: found.get(name, 0) for name in (*_CPUSET, *_CPUSET_REST)}
    return {**one, "cpu_exclusive": names.pop("cpu_exclusive"), **two, **names}


def _v1_memory(directory: str | None) -> JsonObject:
    stat = _counters(directory, "memory.stat")
    return {
        **_some({"cache": stat.get("cache", 0)}),
        "usage": _v1_entry(directory, "memory"),
        "swap": _v1_entry(directory, "memory.memsw"),
        "kernel": _v1_entry(directory, "memory.kmem"),
        "kernelTCP": _v1_entry(directory, "memory.kmem.tcp"),
        **_some({"raw": dict(stat)}),
    }


def _v1_entry(directory: str | None, prefix: str) -> JsonObject:
    return {
        "limit": _number(directory, f"{prefix}.limit_in_bytes"),
        **_some({"usage": _number(directory, f"{prefix}.usage_in_bytes")}),
        **_some({"max": _number(directory, f"{prefix}.max_usage_in_bytes")}),
        "failcnt": _number(directory, f"{prefix}.failcnt"),
    }


def _v2_memory(directory: str) -> JsonObject:
    stat = _counters(directory, "memory.stat")
    memory, swap = _number(directory, "memory.current"), _number(directory, "memory.swap.current")
    limit, swap_limit = _limit(directory, "memory.max"), _limit(directory, "memory.swap.max")
    # v1 counted memory and swap together, and so does what is printed
    both = _UNLIMITED if _UNLIMITED in (limit, swap_limit) else limit + swap_limit
    failures = _counters(directory, "memory.events").get("max", 0)
    none: JsonObject = {"limit": 0, "failcnt": 0}
    peak = _number(directory, "memory.peak")
    return {
        **_some({"cache": stat.get("file", 0)}),
        "usage": {"limit": limit, **_some({"usage": memory}), **_some({"max": peak}), "failcnt": failures},
        "swap": {"limit": both, **_some({"usage": memory + swap}), "failcnt": 0},
        "kernel": dict(none),
        "kernelTCP": dict(none),
        **_some({"raw": dict(stat)}),
    }


def _pids(directory: str | None) -> JsonObject:
    return _some({"current": _number(directory, "pids.current"), "limit": _number(directory, "pids.max")})


def _v1_blkio(directory: str | None) -> JsonObject:
    for prefix, suffix in (("blkio.bfq.", "_recursive"), ("blkio.throttle.", "_recursive"), ("blkio.throttle.", "")):
        found = _some(
            {
                "ioServiceBytesRecursive": _blkio_entries(directory, f"{prefix}io_service_bytes{suffix}"),
                "ioServicedRecursive": _blkio_entries(directory, f"{prefix}io_serviced{suffix}"),
            }
        )
        if found:
            return found
    return {}


def _blkio_entries(directory: str | None, name: str) -> list[JsonValue]:
    entries: list[JsonValue] = []
    for line in _text(directory, name).splitlines():
        device, *rest = line.split()
        if len(rest) == 2 and rest[1].isdecimal():
            entries.append(_blkio_entry(device, rest[0], int(rest[1])))
    return entries


def _v2_blkio(directory: str) -> JsonObject:
    fields: dict[str, list[JsonValue]] = {"ioServiceBytesRecursive": [], "ioServicedRecursive": []}
    operations = {"r": "Read", "w": "Write", "d": "Discard"}
    for line in _text(directory, "io.stat").splitlines():
        device, *pairs = line.split()
        for pair in pairs:
            key, _, value = pair.partition("=")
            operation = operations.get(key[:1])
            field = {"bytes": "ioServiceBytesRecursive", "ios": "ioServicedRecursive"}.get(key[1:])
            if operation and field and value.isdecimal():
                fields[field].append(_blkio_entry(device, operation, int(value)))
    return _some(fields)


def _blkio_entry(device: str, operation: str, value: int) -> JsonObject:
    major, _, minor = device.partition(":")
    return _some({"major": int(major), "minor": int(minor), "op": operation, "value": value})


def _hugetlb(directory: str | None, usage: str, peak: str) -> JsonObject:
    """Each page size that the kernel has a file of (``hugetlb.2MB.current``)."""
    found: JsonObject = {}
    if directory is None:
        return found
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return found
    for name in names:
        if name.startswith("hugetlb.") and name.endswith(f".{usage}") and name.count(".") == 2:
            size = name.split(".")[1]
            found[size] = {
                **_some({"usage": _number(directory, name)}),
                **_some({"max": _number(directory, f"hugetlb.{size}.{peak}") if peak else 0}),
                "failcnt": _number(directory, f"hugetlb.{size}.failcnt")
                or _counters(directory, f"hugetlb.{size}.events").get("max", 0),
            }
    return found


def _some(values: Mapping[str, JsonValue | list[JsonValue]]) -> JsonObject:
    """Leave out what is empty or 0, as Go's ``omitempty``."""
    return {name: value for name, value in values.items() if value}


def _text(directory: str | None, name: str) -> str:
    if directory is None:
        return ""
    try:
        with open(f"{directory}/{name}", encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _number(directory: str | None, name: str) -> int:
    text = _text(directory, name).strip()
    return int(text) if text.lstrip("-").isdecimal() else 0


def _limit(directory: str, name: str) -> int:
    text = _text(directory, name).strip()
    return int(text) if text.isdecimal() else _UNLIMITED


def _counters(directory: str | None, name: str) -> dict[str, int]:
    """Return a flat-keyed file as a dictionary."""
    found = {}
    for line in _text(directory, name).splitlines():
        key, _, value = line.partition(" ")
        if value.isdecimal():
            found[key] = int(value)
    return found
