"""Tests of the parts of config.json that few containers have: orlop.spec.oci.{hooks,scheduling,namespaces,seccomp}."""

from __future__ import annotations

import copy

import pytest

from oci_bundles import FULL
from orlop.errors import InvalidParameterError, OrlopError, UnsupportedError
from orlop.spec.oci import parse_config
from orlop.spec.oci.hooks import Hook
from orlop.spec.oci.namespaces import NetDevice, TimeOffset
from orlop.spec.oci.scheduling import CpuAffinity, IoPriority, MemoryPolicy, Scheduler


def with_value(path: str, value: object) -> dict:
    document = copy.deepcopy(FULL)
    *above, last = path.split(".")
    target = document
    for name in above:
        target = target.setdefault(name, {})
    target[last] = value
    return document


def test_all_parts_are_read():
    document = with_value("linux.netDevices", {"host0": {"name": "eth%d"}, "host1": {}})
    document["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0-1, 3", "flags": ["MPOL_F_STATIC_NODES"]}
    config = parse_config(document)
    process, linux, hooks = config.process, config.linux, config.hooks
    assert process is not None
    assert hooks is not None
    assert process.scheduler == Scheduler("SCHED_BATCH", 3, 0, ("SCHED_FLAG_RESET_ON_FORK",))
    assert process.io_priority == IoPriority("IOPRIO_CLASS_BE", 5)
    assert process.cpu_affinity == CpuAffinity(frozenset({0, 1}), frozenset({0}))
    assert linux.personality == "LINUX"
    assert linux.memory_policy == MemoryPolicy("MPOL_BIND", frozenset({0, 1, 3}), ("MPOL_F_STATIC_NODES",))
    assert linux.time_offsets == (TimeOffset("monotonic", 7, 0), TimeOffset("boottime", 100, 5))
    assert linux.net_devices == (NetDevice("host0", "eth%d"), NetDevice("host1", "host1"))
    assert hooks.create_runtime == (Hook("/bin/true", ("true",), ("A=b",), 5),)
    assert hooks.start_container == (Hook("/bin/true", ("/bin/true",)),)
    assert hooks.before_pivot


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hooks.createRuntime", [{"path": "relative"}]),
        ("hooks.createRuntime", [{"path": ""}]),
        ("hooks.createRuntime", [{"args": ["x"]}]),
        ("hooks.createRuntime", [{"path": "/x", "timeout": 0}]),
        ("hooks.createRuntime", [{"path": "/x", "timeout": 10**9}]),
        ("hooks.createRuntime", [{"path": "/x", "shell": True}]),
        ("hooks.onFire", []),
        ("hooks.poststop", {}),
        ("process.scheduler", {}),
        ("process.scheduler", {"policy": "SCHED_FIFO"}),
        ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 100}),
        ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 5, "nice": 1}),
        ("process.scheduler", {"policy": "SCHED_OTHER", "priority": 5}),
        ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}),
        ("process.scheduler", {"policy": "SCHED_OTHER", "runtime": 5}),
        ("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4}),
        ("process.scheduler", {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_FAST"]}),
        ("process.ioPriority", {"priority": 3}),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}),
        ("process.execCPUAffinity", {"initial": "x"}),
        ("process.execCPUAffinity", {"final": "0-2147483647"}),
        ("linux.personality", {}),
        ("linux.personality", {"domain": "SUNOS"}),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND"}),
        ("linux.memoryPolicy", {"mode": "MPOL_DEFAULT", "nodes": "0"}),
        ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NONE"]}),
        (
            "linux.memoryPolicy",
            {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]},
        ),
        ("linux.memoryPolicy", {"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}),
        ("linux.timeOffsets", {"realtime": {"secs": 1}}),
        ("linux.timeOffsets", {"boottime": {"nanosecs": 10**9}}),
        ("linux.netDevices", {"a/b": {}}),
        ("linux.netDevices", {"..": {}}),
        ("linux.netDevices", {"x" * 16: {}}),
        ("linux.netDevices", {"%d": {}}),
        ("linux.netDevices", {"a": {"name": "a b"}}),
        ("linux.netDevices", {"a": {"name": "eth0"}, "b": {"name": "eth0"}}),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "x"}),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
        ("mounts", [{"destination": "/m", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}]),
    ],
)
def test_what_cannot_be_is_refused(path, value):
    with pytest.raises(InvalidParameterError):
        parse_config(with_value(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("process.scheduler", {"policy": "SCHED_ISO"}),
        ("linux.personality", {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}),
        ("linux.intelRdt", {}),
    ],
)
def test_what_would_be_ignored_is_refused(path, value):
    with pytest.raises(UnsupportedError):
        parse_config(with_value(path, value))


@pytest.mark.parametrize("name", ["write", "sendmsg"])
def test_init_can_tell_of_its_listener(name):
    rules = [{"names": ["acct", name], "action": "SCMP_ACT_NOTIFY"}]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": rules}
    with pytest.raises(OrlopError, match=f"cannot be used for the {name} syscall"):
        parse_config(with_value("linux.seccomp", profile))
    rules[0]["names"].remove(name)
    profile = parse_config(with_value("linux.seccomp", profile)).linux.seccomp
    assert profile is not None
    assert profile.notifies


@pytest.mark.parametrize("kind", ["time", "network"])
def test_what_belongs_to_a_namespace_needs_one(kind):
    document = with_value("linux.netDevices", {"host0": {}})
    document["linux"].pop("sysctl")
    document["linux"]["namespaces"] = [e for e in FULL["linux"]["namespaces"] if e["type"] != kind]
    with pytest.raises(InvalidParameterError, match=r"time namespace|NET namespace"):
        parse_config(document)
