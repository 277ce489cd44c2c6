"""Each controller: resources in, writes out."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.cgroups.controllers import v1_writes, v2_writes
from orlop.runtime.cgroups.controllers.cpu import weight_of
from orlop.runtime.cgroups.controllers.devices import v1 as devices_v1
from orlop.runtime.cgroups.device_defaults import with_default_devices
from orlop.spec.oci import default_device_rules, parse_resources, privileged_device_rules


def v1(document: dict) -> list[tuple[str, str]]:
    return [(write.file, write.text) for write in v1_writes(parse_resources(document))]


def v2(document: dict) -> list[tuple[str, str]]:
    return [(write.file, write.text) for write in v2_writes(parse_resources(document))]


def test_nothing_asked_nothing_written():
    assert v1({}) == v2({}) == []
    assert v1({"memory": {"limit": 0, "swap": 0}, "pids": {"limit": 0}, "cpu": {"shares": 0, "quota": 0}}) == []


@pytest.mark.parametrize(
    ("memory", "old", "new"),
    [
        ({"limit": 64}, [("memory.limit_in_bytes", "64")], [("memory.max", "64")]),
        (
            {"limit": 64, "swap": 128},
            [("memory.limit_in_bytes", "64"), ("memory.memsw.limit_in_bytes", "128")],
            [("memory.swap.max", "64"), ("memory.max", "64")],
        ),
        (
            {"limit": 64, "swap": 64},
            [("memory.limit_in_bytes", "64"), ("memory.memsw.limit_in_bytes", "64")],
            [("memory.swap.max", "0"), ("memory.max", "64")],
        ),
        (
            {"limit": 64, "swap": -1},
            [("memory.limit_in_bytes", "64"), ("memory.memsw.limit_in_bytes", "-1")],
            [("memory.swap.max", "max"), ("memory.max", "64")],
        ),
        (
            {"limit": -1},
            [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")],
            [("memory.swap.max", "max"), ("memory.max", "max")],
        ),
        ({"reservation": 32}, [("memory.soft_limit_in_bytes", "32")], [("memory.low", "32")]),
    ],
)
def test_memory(memory, old, new):
    assert v1({"memory": memory}) == old
    assert v2({"memory": memory}) == new


def test_memory_only_on_v1():
    assert v1({"memory": {"swappiness": 0, "disableOOMKiller": True, "kernelTCP": 9}}) == [
        ("memory.kmem.tcp.limit_in_bytes", "9"),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "1"),
    ]
    assert v1({"memory": {"useHierarchy": False}}) == [("memory.use_hierarchy", "0")]
    assert v1_writes(parse_resources({"memory": {"useHierarchy": True}}))[0].optional
    assert v2({"memory": {"useHierarchy": True}}) == []
    only_v1 = ({"swappiness": 0}, {"disableOOMKiller": True}, {"kernelTCP": 9}, {"useHierarchy": False})
    for memory in only_v1:
        with pytest.raises(UnsupportedError, match="cgroup v2"):
            v2({"memory": memory})


def test_swap_without_memory_on_v2():
    with pytest.raises(InvalidParameterError, match="without memory limit"):
        v2({"memory": {"swap": 4096, "limit": 0}})


def test_cpu():
    document = {"cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 0}}
    assert v1(document) == [
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "0"),
    ]
    assert v2(document) == [("cpu.weight", "20"), ("cpu.max", "50000 100000"), ("cpu.max.burst", "0")]


def test_cpu_quota_alone_and_none():
    assert v2({"cpu": {"quota": 20000}}) == [("cpu.max", "20000 100000")]
    assert v2({"cpu": {"quota": -1}}) == [("cpu.max", "max 100000")]
    assert v1({"cpu": {"quota": -1}}) == [("cpu.cfs_quota_us", "-1")]


def test_idle_has_no_shares():
    assert v1({"cpu": {"idle": 1, "shares": 512}}) == [("cpu.idle", "1")]
    assert v2({"cpu": {"idle": 0, "shares": 2}}) == [("cpu.idle", "0"), ("cpu.weight", "1")]


@pytest.mark.parametrize(("shares", "words"), [(1, "minimum allowed cpu-shares is 2"), (262145, "maximum allowed")])
def test_shares_that_the_kernel_would_clamp(shares, words):
    for writes in (v1, v2):
        with pytest.raises(InvalidParameterError, match=words):
            writes({"cpu": {"shares": shares}})


def test_weight_spans_the_range():
    assert (weight_of(2), weight_of(1024), weight_of(262144)) == (1, 39, 10000)


def test_cpuset_and_pids():
    document = {"cpu": {"cpus": "0-1", "mems": "0"}, "pids": {"limit": 50}}
    assert v1(document) == v2(document) == [("cpuset.cpus", "0-1"), ("cpuset.mems", "0"), ("pids.max", "50")]
    assert v1({"pids": {"limit": -1}}) == [("pids.max", "max")]


def test_block_io():
    document = {
        "blockIO": {
            "weight": 500,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}],
        }
    }
    writes = v1_writes(parse_resources(document))
    assert [(write.file, write.text) for write in writes] == [
        ("blkio.weight", "500"),
        ("blkio.weight_device", "8:0 10"),
        ("blkio.throttle.read_bps_device", "8:0 1024"),
        ("blkio.throttle.write_iops_device", "8:16 7"),
    ]
    assert writes[0].instead is not None
    assert writes[0].instead.file == "blkio.bfq.weight"
    new = v2_writes(parse_resources(document))
    assert [(write.file, write.text) for write in new] == [
        ("io.bfq.weight", "default 500"),
        ("io.bfq.weight", "8:0 10"),
        ("io.max", "8:0 rbps=1024"),
        ("io.max", "8:16 wiops=7"),
    ]
    assert new[0].instead is not None
    assert (new[0].instead.file, new[0].instead.text) == ("io.weight", "default 4950")
    with pytest.raises(UnsupportedError, match="leafWeight"):
        v2({"blockIO": {"leafWeight": 10}})


def test_hugetlb_network_rdma_unified():
    assert v1({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}) == [
        ("hugetlb.2MB.limit_in_bytes", "4"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4"),
    ]
    assert v2({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]})[0] == ("hugetlb.2MB.max", "4")
    network = {"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]}}
    assert v1(network) == [("net_cls.classid", "1048577"), ("net_prio.ifpriomap", "eth0 5")]
    with pytest.raises(UnsupportedError, match="network"):
        v2(network)
    assert v2({"rdma": {"mlx5_1": {"hcaHandles": 3}}}) == [("rdma.max", "mlx5_1 hca_handle=3")]
    assert v2({"unified": {"memory.high": "9", "io.max": "8:0 rbps=1\n8:1 rbps=2"}}) == [
        ("memory.high", "9"),
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:1 rbps=2"),
    ]
    with pytest.raises(UnsupportedError, match="unified"):
        v1({"unified": {"memory.high": "9"}})


@pytest.mark.parametrize(
    ("fields", "unified"),
    [
        ({"memory": {"limit": 4096}}, {"memory.max": "8192"}),
        ({"cpu": {"quota": 1000}}, {"cpu.max": "2000 100000"}),
        ({"pids": {"limit": 5}}, {"pids.max": "max"}),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}, {"io.max": "8:0 rbps=2"}),
    ],
)
def test_unified_must_not_contradict(fields, unified):
    with pytest.raises(InvalidParameterError, match="unified contradicts"):
        v2({**fields, "unified": unified})


def test_unified_may_say_the_same_or_something_else():
    assert v2({"memory": {"limit": 4096}, "unified": {"memory.max": "4096", "memory.high": "1"}})[-1] == (
        "memory.high",
        "1",
    )
    throttle = {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}
    assert len(v2({"blockIO": throttle, "unified": {"io.max": "8:16 rbps=2"}})) == 2


def test_default_devices_as_v1_text():
    writes = v1({"devices": default_device_rules()})
    assert writes[0] == ("devices.deny", "a")
    assert ("devices.allow", "c 136:* rwm") in writes
    assert ("devices.deny", "c 10:229 rwm") in writes
    assert writes[-2:] == [("devices.allow", "c *:* m"), ("devices.allow", "b *:* m")]


def test_privileged_devices():
    assert v1({"devices": privileged_device_rules()}) == [("devices.allow", "a")]


def test_a_type_with_numbers_is_not_everything():
    """The kernel reads a rule of type ``a`` as "all devices", whatever numbers follow it."""
    writes = v1({"devices": [{"allow": True, "type": "a", "major": 1, "minor": 3, "access": "r"}]})
    assert writes == [("devices.allow", "b 1:3 r"), ("devices.allow", "c 1:3 r")]


def test_rule_that_v1_would_ignore_is_refused():
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "rw"},
        {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
    ]
    with pytest.raises(UnsupportedError, match="cannot be expressed on cgroup v1"):
        devices_v1(parse_resources({"devices": rules}))
    rules[1] = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert len(devices_v1(parse_resources({"devices": rules}))) == 3


def test_default_devices_are_added_and_nothing_else_is_allowed():
    assert with_default_devices(parse_resources({})).devices[0].allow is False
    only_deny = parse_resources({"devices": [{"allow": False, "access": "rwm"}]})
    added = with_default_devices(only_deny).devices
    assert [rule.allow for rule in added] == [False] + [True] * (len(added) - 1)
    everything = parse_resources({"devices": privileged_device_rules()})
    assert with_default_devices(everything) is everything
    complete = parse_resources({"devices": default_device_rules()})
    assert with_default_devices(complete) is complete


def test_everything_but_one_device_is_left_at_that():
    """v1 has no words for the default devices then, and nobody needs them to be named."""
    rules = [*privileged_device_rules(), {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]
    asked = parse_resources({"devices": rules})
    assert with_default_devices(asked) is asked
    assert [write.file for write in devices_v1(asked)] == ["devices.allow", "devices.deny"]
