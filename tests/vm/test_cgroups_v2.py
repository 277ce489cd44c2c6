"""Every controller of the unified hierarchy, with the kernel's own files."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from harness import remove_cgroups, wait_for
from orlop.errors import ConflictError, InvalidParameterError, SystemFailureError, UnsupportedError
from orlop.runtime.cgroups import Hierarchies, Hierarchy, create_cgroup, detect, open_cgroup
from orlop.spec.oci import default_device_rules, parse_resources

pytestmark = pytest.mark.vm

ROOT = Path("/sys/fs/cgroup")
MIB = 1 << 20
JOIN = """
import sys
from orlop.runtime.cgroups import detect, open_cgroup
open_cgroup(detect(), sys.argv[1]).join(cloned=False)
exec(sys.argv[2])
"""


@pytest.fixture
def path():
    name = f"orlop-t-{secrets.token_hex(4)}"
    yield f"/{name}/one"
    remove_cgroups(name)


def make(path: str, document: dict):
    return create_cgroup(detect(), path, parse_resources(document))


def text(path: str, file: str) -> str:
    return (ROOT / path.strip("/") / file).read_text().strip()


@contextlib.contextmanager
def inside(path: str, code: str):
    command = [sys.executable, "-c", JOIN, path, code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def output(path: str, code: str) -> str:
    with inside(path, code) as process:
        return process.communicate(timeout=120)[0]


def test_limits_of_every_controller(path):
    disk = os.stat("/dev/vda").st_rdev
    device = {"major": os.major(disk), "minor": os.minor(disk)}
    cgroup = make(
        path,
        {
            "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
            "cpu": {"shares": 512, "quota": 50_000, "period": 200_000, "burst": 10_000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 50},
            "blockIO": {
                "throttleReadBpsDevice": [{**device, "rate": MIB}],
                "throttleWriteBpsDevice": [{**device, "rate": 2 * MIB}],
                "throttleReadIOPSDevice": [{**device, "rate": 100}],
                "throttleWriteIOPSDevice": [{**device, "rate": 200}],
                "weight": 500,
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
            "unified": {"memory.high": str(48 * MIB), "memory.oom.group": "1"},
        },
    )
    cgroup.close()
    assert (text(path, "memory.max"), text(path, "memory.swap.max")) == (str(64 * MIB), str(32 * MIB))
    assert (text(path, "memory.low"), text(path, "memory.high")) == (str(32 * MIB), str(48 * MIB))
    assert text(path, "memory.oom.group") == "1"
    assert (text(path, "cpu.weight"), text(path, "cpu.max")) == ("20", "50000 200000")
    assert text(path, "cpu.max.burst") == "10000"
    assert (text(path, "cpuset.cpus"), text(path, "cpuset.mems")) == ("0", "0")
    assert text(path, "pids.max") == "50"
    assert text(path, "io.max") == f"{os.major(disk)}:{os.minor(disk)} rbps=1048576 wbps=2097152 riops=100 wiops=200"
    assert text(path, "io.bfq.weight") == "default 500"
    assert (text(path, "hugetlb.2MB.max"), text(path, "hugetlb.2MB.rsvd.max")) == (str(4 * MIB), str(4 * MIB))


def test_idle(path):
    make(path, {"cpu": {"idle": 1}}).close()
    assert text(path, "cpu.idle") == "1"


@pytest.mark.parametrize(
    ("document", "kind", "words"),
    [
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, UnsupportedError, "hugetlb.3MB.max"),
        ({"cpu": {"cpus": "4000"}}, SystemFailureError, "cpuset.cpus"),
        ({"unified": {"memory.nonsense": "1"}}, UnsupportedError, "memory.nonsense"),
        ({"unified": {"memory.max": "much"}}, SystemFailureError, "invalid argument"),
        ({"rdma": {"mlx5_9": {"hcaHandles": 3}}}, SystemFailureError, "rdma.max"),
        ({"network": {"classID": 1}}, UnsupportedError, "network"),
        ({"memory": {"swappiness": 10}}, UnsupportedError, "memory.swappiness"),
        ({"cpu": {"realtimeRuntime": 1000}}, UnsupportedError, "realtime"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(path, document, kind, words):
    with pytest.raises(kind, match=words):
        make(path, document)
    assert not (ROOT / path.strip("/")).exists()


def test_cgroup_with_processes_is_another_containers(path):
    make(path, {}).close()
    with inside(path, "import time; time.sleep(600)") as process:
        wait_for(lambda: open_cgroup(detect(), path).pids() == [process.pid])
        with pytest.raises(ConflictError, match="not empty: 1 process"):
            make(path, {})
    make(path, {"pids": {"limit": 3}}).close()
    assert text(path, "pids.max") == "3"


def test_update_changes_what_it_names_only(path):
    cgroup = make(path, {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}, "cpu": {"quota": 50_000, "period": 200_000}})
    cgroup.update(parse_resources({"cpu": {"period": 100_000}, "memory": {"limit": 32 * MIB}}))
    assert text(path, "cpu.max") == "50000 100000"
    assert (text(path, "memory.max"), text(path, "memory.swap.max")) == (str(32 * MIB), str(64 * MIB))
    cgroup.update(parse_resources({"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}))
    assert (text(path, "memory.max"), text(path, "memory.swap.max")) == ("max", "max")
    assert text(path, "cpu.max") == "max 100000"
    code = f"a = bytearray({16 * MIB}); print('ready', flush=True); import time; time.sleep(600)"
    with inside(path, code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InvalidParameterError, match="rejecting memory limit"):
            cgroup.update(parse_resources({"memory": {"limit": 8 * MIB, "checkBeforeUpdate": True}}))
        cgroup.kill()
        assert process.wait() == -9
    cgroup.remove()


def test_devices(path):
    make(path, {"devices": default_device_rules()}).close()
    code = """
for name in ("/dev/null", "/dev/zero", "/dev/vda", "/dev/loop-control", "/dev/tty"):
    try:
        open(name, "rb").close(); print(name, "open", flush=True)
    except OSError as error:
        print(name, error.errno, flush=True)
import os
for node in ((0o20666, 10, 237), (0o60666, 7, 0)):
    os.mknod(f"/tmp/node-{os.getpid()}", node[0], os.makedev(*node[1:])); os.unlink(f"/tmp/node-{os.getpid()}")
print("made", flush=True)
"""
    found = output(path, code).splitlines()
    # no terminal (ENXIO), but no refusal either
    assert found == ["/dev/null open", "/dev/zero open", "/dev/vda 1", "/dev/loop-control 1", "/dev/tty 6", "made"]
    open_cgroup(detect(), path).update(parse_resources({"devices": [{"allow": True, "access": "rwm"}]}))
    assert "/dev/vda open" in output(path, code)


def test_memory_events_and_accounting(path):
    cgroup = make(path, {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    watch = cgroup.oom_events()
    assert not watch.killed()
    with inside(path, f"a = bytearray({200 * MIB})") as process:
        assert process.wait() == -9
    assert select.select([watch], [], [], 60)[0]
    watch.drain()
    assert watch.killed()
    watch.close()

    def told() -> dict | None:  # the kernel gives pages of the dead back a moment later
        found = cgroup.stats()
        return found if found["memory_stats"]["usage"] == int(text(path, "memory.current")) else None

    statistics = wait_for(told, what="the usage that the file says")
    assert statistics["memory_stats"]["limit"] == 64 * MIB
    assert statistics["memory_stats"]["failcnt"] > 0
    fields = dict(line.split() for line in text(path, "cpu.stat").splitlines())
    assert statistics["cpu_stats"]["cpu_usage"]["total_usage"] == int(fields["usage_usec"]) * 1000 > 0
    assert set(cgroup.pressure()) == {"cpu", "memory", "io"}
    assert cgroup.pressure()["memory"]["full"]["total"] >= 0
    cgroup.close()


def test_fork_bomb_freezes_and_dies(path):
    cgroup = make(path, {"pids": {"limit": 60}})
    code = "import os, signal\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        signal.sigtimedwait([], 0.05)"
    with inside(path, code) as process:
        wait_for(lambda: len(cgroup.pids()) > 40)
        cgroup.freeze()
        assert cgroup.frozen()
        before = sorted(cgroup.pids())
        assert sorted(cgroup.pids()) == before
        cgroup.thaw()
        cgroup.kill()
        assert cgroup.pids() == []
        assert process.wait() == -9
    cgroup.remove()
    assert not (ROOT / path.strip("/")).exists()


def mount(hierarchy: Hierarchy) -> None:
    options = ",".join(hierarchy.controllers)
    subprocess.run(["mount", "-t", "cgroup", "-o", options, "none", hierarchy.directory], check=True)


def unmounted(hierarchy: Hierarchy) -> bool:
    """Unmount, and say whether it went: the remains of a removed cgroup may keep a hierarchy until it is unmounted again."""
    subprocess.run(["umount", hierarchy.directory], check=True)
    shown = f":{','.join(hierarchy.controllers)}:"
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: shown not in Path("/proc/self/cgroup").read_text(), seconds=0.1)
        return True
    mount(hierarchy)
    return False


def test_network_classes_and_devices_on_v1_hierarchies(tmp_path):
    """Two controllers that v2 never had; the host of the other tests has no network classes."""
    mounted = []
    for controllers in ("net_cls,net_prio", "devices"):
        directory = tmp_path / controllers
        directory.mkdir()
        mounted.append(Hierarchy(str(directory), tuple(controllers.split(","))))
        mount(mounted[-1])
    names = frozenset(name for hierarchy in mounted for name in hierarchy.controllers)
    try:
        network = {"classID": 0x100001, "priorities": [{"name": "lo", "priority": 3}]}
        document = {"network": network, "devices": default_device_rules()}
        cgroup = create_cgroup(Hierarchies(tuple(mounted), None, names), "/one", parse_resources(document))
        directory = tmp_path / "net_cls,net_prio/one"
        assert (directory / "net_cls.classid").read_text() == f"{0x100001}\n"
        assert "lo 3\n" in (directory / "net_prio.ifpriomap").read_text()
        allowed = (tmp_path / "devices/one/devices.list").read_text().splitlines()
        assert "c 1:3 rwm" in allowed
        assert "a *:* rwm" not in allowed
        cgroup.remove()
    finally:
        for hierarchy in mounted:
            wait_for(partial(unmounted, hierarchy), what="end of the hierarchy")


def test_parent_without_controllers_is_given_them(path):
    parent = ROOT / path.strip("/").split("/")[0]
    parent.mkdir()
    assert (parent / "cgroup.subtree_control").read_text().strip() == ""
    make(path, {"memory": {"limit": 64 * MIB}}).close()
    assert text(path, "memory.max") == str(64 * MIB)
