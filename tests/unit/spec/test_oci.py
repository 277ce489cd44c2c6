"""Tests of orlop.spec.oci: strict reading of config.json."""

from __future__ import annotations

import copy
import json

import pytest

from orlop.errors import InvalidParameterError, OrlopError, UnsupportedError
from orlop.spec.oci import (
    Capabilities,
    DeviceRule,
    Memory,
    Resources,
    check_sysctl,
    default_device_rules,
    parse_config,
    parse_process,
    parse_resources,
    require_runnable,
    sysctl_path,
)

BASE = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "process": {"args": ["sh", "-c", "true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 1, "gid": 2}},
    "hostname": "box",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
    "linux": {
        "namespaces": [{"type": name} for name in ("mount", "pid", "network", "uts", "ipc", "cgroup")],
        "maskedPaths": ["/proc/kcore"],
        "sysctl": {"net.ipv4.ip_forward": "0"},
        "cgroupsPath": "/orlop/x",
    },
}


def with_value(path: str, value: object) -> dict:
    """Return BASE with the property at dotted ``path`` replaced."""
    document = copy.deepcopy(BASE)
    target = document
    *parents, last = path.split(".")
    for name in parents:
        target = target.setdefault(name, {})
    target[last] = value
    return document


def test_reads_every_part():
    config = parse_config(BASE)
    root, process = require_runnable(config)
    assert (root.path, root.readonly) == ("rootfs", True)
    assert process.args == ("sh", "-c", "true")
    assert (process.user.uid, process.user.gid, process.user.umask) == (1, 2, None)
    assert process.capabilities is None
    assert config.mounts[0].options == ("nosuid",)
    assert config.linux.namespace("pid") is not None
    assert config.linux.namespace("user") is None
    assert config.linux.resources == Resources()


def test_unknown_properties_and_annotations_are_ignored():
    document = with_value("x-vendor", {"a": 1})
    document["annotations"] = {"com.example": "1"}
    assert parse_config(document).annotations == {"com.example": "1"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("linux.intelRdt", {"closID": "x"}),
        ("linux.intelRdt", {}),
        ("linux.personality.flags", ["ADDR_NO_RANDOMIZE"]),
        ("process.scheduler.policy", "SCHED_ISO"),
        ("process.commandLine", "cmd /c"),
        ("linux.resources", {"memory": {"kernel": 4096}}),
        ("windows", {"x": 1}),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(path, value):
    with pytest.raises(UnsupportedError, match=path.rsplit(".", 1)[-1]):
        parse_config(with_value(path, value))


def test_empty_unsupported_objects_ask_for_nothing():
    document = with_value("linux.intelRdt", None)
    document["hooks"] = {"prestart": []}
    document["windows"] = {}
    assert parse_config(document).hooks is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("ociVersion", "2.0.0", "ociVersion"),
        ("ociVersion", None, "ociVersion"),
        ("process.args", [], "args must not be empty"),
        ("process.args", ["a\0b"], "NUL"),
        ("process.args", ["\ud800"], "Unicode"),
        ("process.args", "sh", "list"),
        ("process.cwd", "tmp", "Cwd must be an absolute path"),
        ("process.cwd", "", "Cwd property must not be empty"),
        ("process.NoNewPrivileges", True, "did you mean noNewPrivileges"),
        ("process.noNewPrivileges", 1, "boolean"),
        ("process.oomScoreAdj", 1001, "range"),
        pytest.param("process.oomScoreAdj", 10**5000, "range", id="huge"),
        ("process.user", {"uid": 2**32 - 1}, "range"),
        ("process.user", {"uid": -1}, "range"),
        ("process.user", {"uid": True}, "integer"),
        ("process.user", {"uid": 1.0}, "integer"),
        ("process.user", {"sudo": 1}, "unknown field"),
        ("process.user", {"umask": 0o1000}, "range"),
        ("process.capabilities", {"bounding": ["chown"]}, "unknown capability"),
        ("process.capabilities", {"effective": ["CAP_KILL"]}, "effective but not permitted: CAP_KILL"),
        ("process.capabilities", {"efective": []}, "unknown field"),
        ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}], "above the hard"),
        ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "more than once"),
        ("process.rlimits", [{"type": "NOFILE", "soft": 1, "hard": 1}], "invalid rlimit type"),
        ("root", {}, "root.path"),
        ("mounts", [{"type": "proc"}], "mounts.destination"),
        ("mounts", {}, "list"),
        ("linux.namespaces", [{"type": "pid"}, {"type": "pid"}], 'duplicated ns "pid"'),
        ("linux.namespaces", [{"type": "disk"}], "unknown value"),
        ("linux.namespaces", [{"type": "pid", "path": "x"}], "absolute"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}], "USER namespace isn't enabled"),
        ("linux.rootfsPropagation", "sharedish", "unknown value"),
        ("linux.rootfsPropagation", 7, "string"),
        ("linux.maskedPaths", ["proc"], "absolute"),
        ("linux.devices", [{"type": "c", "path": "/dev/x"}], "major: missing"),
        ("linux.devices", [{"type": "x", "path": "/dev/x"}], "unknown value"),
        ("linux.sysctl", {"kernel.core_pattern": "|/x"}, "not in a separate kernel namespace"),
        ("linux.sysctl", {"kernel.shm_rmid_forced": "1\nkernel.core_pattern=|/x"}, "invalid value"),
        ("linux.seccomp", {"defaultAction": "ALLOW"}, "unknown action"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}, "unknown field"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}, "unknown value"),
        ("linux.resources", {"devices": [{"access": "rwm"}]}, "allow: missing"),
        ("linux.resources", {"devices": [{"allow": True, "access": "rx"}]}, "access"),
        ("linux.resources", {"devices": [{"allow": True, "type": "d", "access": "r"}]}, "device type"),
        ("linux.resources", {"cpu": {"cpus": "0-2147483647"}}, "0-2147483647"),
        ("linux.resources", {"cpu": {"idle": 2}}, "range"),
        ("linux.resources", {"memory": {"limit": 8, "swap": 4}}, "memoryswap limit"),
        ("linux.resources", {"blockIO": {"weight": 5}}, "range"),
        ("linux.resources", {"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, "page size"),
        ("linux.resources", {"unified": {"../cgroup.procs": "1"}}, "invalid file name"),
        ("linux.resources", {"unified": {"cgroup.procs": "1"}}, "invalid file name"),
        ("linux.resources", {"rdma": {"../x": {}}}, "invalid device name"),
        ("linux.resources", {"network": {"priorities": [{"name": "a b", "priority": 1}]}}, "interface name"),
        ("hostname", "a b", "invalid name"),
        ("hostname", "a" * 65, "invalid name"),
        ("hooks", {"onFire": []}, "unknown field"),
    ],
)
def test_bad_values_are_refused_by_name(path, value, words):
    with pytest.raises(InvalidParameterError, match=words):
        parse_config(with_value(path, value))


def test_an_empty_propagation_is_none():
    """As of a caller whose language has no null."""
    assert parse_config(with_value("linux.rootfsPropagation", "")).linux.rootfs_propagation == ""


@pytest.mark.parametrize("resources", [{"pids": {}}, {"memory": {"kernel": 0}}, {"memory": {"kernel": None}}])
def test_limits_of_nothing_ask_for_nothing(resources):
    """Go's callers send what their structures have."""
    assert parse_resources(resources) == parse_resources({})


def test_contradictions():
    document = copy.deepcopy(BASE)
    document["linux"]["namespaces"] = [{"type": "mount"}, {"type": "network"}]
    with pytest.raises(InvalidParameterError, match="unable to set hostname without a private UTS namespace"):
        parse_config(document)
    document["linux"]["namespaces"] = [{"type": "uts"}, {"type": "network"}]
    with pytest.raises(InvalidParameterError, match="without a private MNT namespace"):
        parse_config(document)
    document["linux"]["namespaces"] = [{"type": "uts"}, {"type": "mount"}]
    with pytest.raises(InvalidParameterError, match="not allowed in the hosts network namespace"):
        parse_config(document)
    document = copy.deepcopy(BASE)
    document["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(InvalidParameterError, match="no uid mappings found"):
        parse_config(document)


def test_overlapping_mappings_are_refused():
    document = copy.deepcopy(BASE)
    document["linux"]["namespaces"].append({"type": "user"})
    good = [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 10, "hostID": 200000, "size": 5}]
    document["linux"]["uidMappings"] = document["linux"]["gidMappings"] = good
    assert len(parse_config(document).linux.uid_mappings) == 2
    document["linux"]["uidMappings"] = [good[0], {"containerID": 9, "hostID": 300000, "size": 1}]
    with pytest.raises(InvalidParameterError, match="overlap"):
        parse_config(document)
    document["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 2**32 - 2, "size": 2}]
    with pytest.raises(InvalidParameterError, match="last id"):
        parse_config(document)


def test_relative_mount_destination_is_below_the_root():
    assert parse_config(with_value("mounts", [{"destination": "data"}])).mounts[0].destination == "/data"


def test_capabilities_and_console_size():
    process = parse_process(
        {
            "args": ["a"],
            "cwd": "/",
            "capabilities": {"effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"]},
            "consoleSize": {"height": 24, "width": 80},
        }
    )
    assert process.capabilities == Capabilities(
        effective=frozenset({"CAP_KILL"}), permitted=frozenset({"CAP_KILL", "CAP_CHOWN"})
    )
    assert process.console_size == (24, 80)


def test_default_device_rules_parse():
    rules = parse_resources({"devices": default_device_rules()}).devices
    assert rules[0] == DeviceRule(allow=False, type="a", access="rwm")
    assert DeviceRule(allow=True, type="c", major=136, minor=None) in rules
    assert DeviceRule(allow=False, type="c", major=10, minor=229) in rules
    assert DeviceRule(allow=True, type="c", major=10, minor=200) not in rules


def test_memory():
    memory = parse_resources({"memory": {"limit": 64, "swap": -1, "useHierarchy": True}}).memory
    assert memory == Memory(limit=64, swap=-1, use_hierarchy=True)


def test_seccomp_is_hashable():
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
        ],
    }
    one, two = (parse_config(with_value("linux.seccomp", json.loads(json.dumps(profile)))).linux.seccomp for _ in "ab")
    assert hash(one) == hash(two)
    assert one == two


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/mtu", "net/ipv4/conf/eth0.1/mtu"),
        ("net.ipv4.conf.eth0/1.mtu", "net/ipv4/conf/eth0.1/mtu"),
        ("fs/mqueue/msg_max", "fs/mqueue/msg_max"),
    ],
)
def test_sysctl_path(name, path):
    assert sysctl_path(name) == path


@pytest.mark.parametrize(
    "name", ["", "net/../kernel/core_pattern", "net..ipv4", "/etc/passwd", "net.ipv4/../x", "a b", "net.\n"]
)
def test_sysctl_names_that_are_paths(name):
    with pytest.raises(InvalidParameterError, match="invalid sysctl name"):
        sysctl_path(name)


def test_sysctl_namespaces():
    check_sysctl("kernel.sem", "250 32000 32 128", private=frozenset({"ipc"}))
    check_sysctl("kernel/domainname", "x", private=frozenset({"uts"}))
    with pytest.raises(InvalidParameterError, match="conflicts"):
        check_sysctl("kernel.hostname", "x", private=frozenset({"uts"}))
    with pytest.raises(InvalidParameterError, match="ipc namespace"):
        check_sysctl("fs.mqueue.msg_max", "1", private=frozenset({"uts"}))


@pytest.mark.parametrize("document", [None, [], "x", 1, {}, {"ociVersion": "1.0.0", "linux": []}])
def test_never_anything_but_an_orlop_error(document):
    with pytest.raises(OrlopError):
        parse_config(document)
