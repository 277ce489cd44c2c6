"""Cgroups on the machine's own hierarchies, under a parent of the test's own."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time

import pytest

from harness import PATIENCE, remove_cgroups
from orlop.errors import ConflictError, SystemFailureError, UnsupportedError
from orlop.runtime.cgroups import create_cgroup, detect, open_cgroup
from orlop.runtime.cgroups.controllers.devices import program
from orlop.spec.oci import default_device_rules, parse_resources

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root")]

JOIN = """
import sys
from orlop.runtime.cgroups import detect, open_cgroup
open_cgroup(detect(), sys.argv[1]).join(cloned=False)
exec(sys.argv[2])
"""


@pytest.fixture
def parent():
    name = f"orlop-t-{secrets.token_hex(4)}"
    yield f"/{name}"
    remove_cgroups(name)


@pytest.fixture
def hierarchies():
    return detect()


def inside(path: str, code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", JOIN, path, code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read(hierarchies, controller: str, path: str, file: str) -> str:
    with open(f"{hierarchies.directory(controller)}{path}/{file}") as opened:
        return opened.read().strip()


@pytest.mark.requires("cgroup1")
def test_limits_join_and_removal(hierarchies, parent):
    resources = parse_resources(
        {
            "devices": default_device_rules(),
            "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 50},
        }
    )
    path = f"{parent}/one"
    cgroup = create_cgroup(hierarchies, path, resources)
    assert read(hierarchies, "memory", path, "memory.limit_in_bytes") == str(64 << 20)
    assert read(hierarchies, "memory", path, "memory.memsw.limit_in_bytes") == str(128 << 20)
    assert read(hierarchies, "cpu", path, "cpu.cfs_quota_us") == "50000"
    assert read(hierarchies, "cpuset", path, "cpuset.cpus") == "0"
    assert read(hierarchies, "cpuset", path, "cpuset.mems") != ""
    assert read(hierarchies, "pids", path, "pids.max") == "50"
    allowed = read(hierarchies, "devices", path, "devices.list").splitlines()
    assert "c 1:3 rwm" in allowed
    assert "a *:* rwm" not in allowed
    process = inside(path, "print(open('/proc/self/cgroup').read(), flush=True); import time; time.sleep(60)")
    try:
        lines = [process.stdout.readline().decode().strip() for _ in hierarchies.v1]
        assert all(line.endswith(f":{path}") for line in lines), lines
        assert cgroup.pids() == [process.pid]
        with pytest.raises(ConflictError, match=r"not empty: 1 process\(es\) found"):
            create_cgroup(hierarchies, path, resources)
        assert cgroup.stats()["pids_stats"]["current"] == 1
        cgroup.freeze()
        assert cgroup.frozen()
        cgroup.thaw()
        assert not cgroup.frozen()
        cgroup.kill()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    cgroup.remove()
    assert not any(os.path.exists(directory) for directory in cgroup.directories().values())


@pytest.mark.requires("cgroup1")
def test_update_needs_no_order(hierarchies, parent):
    cgroup = create_cgroup(hierarchies, f"{parent}/u", parse_resources({"memory": {"limit": 8 << 20, "swap": 8 << 20}}))
    for limit in (64 << 20, 16 << 20):
        cgroup.update(parse_resources({"memory": {"limit": limit, "swap": limit}}))
        assert read(hierarchies, "memory", f"{parent}/u", "memory.memsw.limit_in_bytes") == str(limit)
    cgroup.update(parse_resources({"cpu": {"quota": 10000, "period": 10000}}))
    cgroup.update(parse_resources({"cpu": {"quota": 5000, "period": 5000}}))
    assert read(hierarchies, "cpu", f"{parent}/u", "cpu.cfs_period_us") == "5000"
    cgroup.remove()


@pytest.mark.requires("cgroup1")
def test_rarer_limits(hierarchies, parent):
    disk = next(os.stat(f"/dev/{name}").st_rdev for name in os.listdir("/sys/block") if os.path.exists(f"/dev/{name}"))
    device = {"major": os.major(disk), "minor": os.minor(disk)}
    path = f"{parent}/r"
    document = {
        "memory": {"useHierarchy": True, "swappiness": 7, "kernelTCP": 1 << 20, "limit": 16 << 20},
        "cpu": {"idle": 1, "quota": 20000, "burst": 5000},
        "blockIO": {
            "throttleReadBpsDevice": [{**device, "rate": 1 << 20}],
            "throttleWriteIOPSDevice": [{**device, "rate": 100}],
        },
    }
    cgroup = create_cgroup(hierarchies, path, parse_resources(document))
    number = f"{os.major(disk)}:{os.minor(disk)}"
    assert read(hierarchies, "blkio", path, "blkio.throttle.read_bps_device") == f"{number} {1 << 20}"
    assert read(hierarchies, "blkio", path, "blkio.throttle.write_iops_device") == f"{number} 100"
    assert read(hierarchies, "memory", path, "memory.swappiness") == "7"
    assert read(hierarchies, "memory", path, "memory.kmem.tcp.limit_in_bytes") == str(1 << 20)
    assert read(hierarchies, "cpu", path, "cpu.idle") == "1"
    assert read(hierarchies, "cpu", path, "cpu.cfs_burst_us") == "5000"
    cgroup.update(parse_resources({"memory": {"limit": -1}}))
    assert int(read(hierarchies, "memory", path, "memory.memsw.limit_in_bytes")) > 1 << 60
    cgroup.remove()


@pytest.mark.requires("cgroup1")
def test_what_kernels_have_given_up_is_not_ignored(hierarchies, parent):
    with pytest.raises(SystemFailureError, match="use_hierarchy"):
        create_cgroup(hierarchies, f"{parent}/k", parse_resources({"memory": {"useHierarchy": False}}))


@pytest.mark.requires("cgroup1")
def test_statistics_are_what_the_files_say(hierarchies, parent):
    path = f"{parent}/st"
    cgroup = create_cgroup(hierarchies, path, parse_resources({"memory": {"limit": 64 << 20}, "pids": {"limit": 9}}))
    process = inside(path, "data = bytearray(8 << 20); print(1, flush=True); import time; time.sleep(60)")
    try:
        process.stdout.readline()
        cgroup.freeze()

        def counted() -> tuple[str, str]:
            return tuple(read(hierarchies, "memory", path, file) for file in ("memory.usage_in_bytes", "memory.stat"))

        before, after = None, counted()
        while before != after:  # what a processor had set aside for the group is given back when others come to it
            before, found, after = after, cgroup.stats(), counted()
        assert found["memory_stats"]["usage"] == int(after[0])
        assert found["memory_stats"]["limit"] == 64 << 20
        fields = dict(line.split() for line in after[1].splitlines())
        assert found["memory_stats"]["stats"]["total_rss"] == int(fields["total_rss"]) > 8 << 20
        usage = int(read(hierarchies, "cpuacct", path, "cpuacct.usage"))
        assert found["cpu_stats"]["cpu_usage"]["total_usage"] == usage > 0
        assert found["pids_stats"] == {"current": 1, "limit": 9}
        if hierarchies.unified is not None and os.path.exists(f"{hierarchies.unified}{path}/cpu.pressure"):
            assert cgroup.pressure()["cpu"]["some"]["total"] >= 0
    finally:
        cgroup.kill()
        process.communicate()
        cgroup.remove()


@pytest.mark.requires("cgroup1")
def test_failure_leaves_nothing(hierarchies, parent):
    with pytest.raises(SystemFailureError, match="failed to write '4096'"):
        create_cgroup(hierarchies, f"{parent}/x", parse_resources({"cpu": {"cpus": "4096"}}))
    with pytest.raises(UnsupportedError, match="hugetlb"):
        limits = [{"pageSize": "3KB", "limit": 1}]
        create_cgroup(hierarchies, f"{parent}/x", parse_resources({"hugepageLimits": limits}))
    for hierarchy in hierarchies.v1:
        assert not os.path.exists(f"{hierarchy.directory}{parent}/x")


@pytest.mark.requires("cgroup1")
def test_stale_cgroup_is_replaced_with_fresh_limits(hierarchies, parent):
    create_cgroup(hierarchies, f"{parent}/s", parse_resources({"pids": {"limit": 5}})).close()
    cgroup = create_cgroup(hierarchies, f"{parent}/s", parse_resources({}))
    assert read(hierarchies, "pids", f"{parent}/s", "pids.max") == "max"
    cgroup.remove()


@pytest.mark.requires("cgroup1")
def test_oom_kill_is_seen(hierarchies, parent):
    path = f"{parent}/oom"
    cgroup = create_cgroup(hierarchies, path, parse_resources({"memory": {"limit": 24 << 20, "swap": 24 << 20}}))
    events = cgroup.oom_events()
    try:
        assert not events.killed()
        assert select.select([events], [], [], 0)[0] == []
        process = inside(path, "data = bytearray(80 << 20)")
        process.communicate(timeout=30 * PATIENCE)
        assert process.returncode == -signal.SIGKILL
        assert select.select([events], [], [], 5 * PATIENCE)[0] == [events]
        events.drain()
        assert events.killed()
    finally:
        events.close()
        cgroup.remove()
    # a removed cgroup was not killed, and asking does no harm
    assert not os.path.exists(f"{hierarchies.directory('memory')}{path}")


@pytest.mark.requires("cgroup1")
def test_kill_takes_a_fork_bomb_and_a_paused_process(hierarchies, parent):
    path = f"{parent}/bomb"
    cgroup = create_cgroup(hierarchies, path, parse_resources({"pids": {"limit": 60}}))
    code = "import os\nwhile True:\n try:\n  os.fork()\n except OSError:\n  pass"
    process = inside(path, code)
    try:
        deadline = time.monotonic() + 10 * PATIENCE
        while len(cgroup.pids()) < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(cgroup.pids()) >= 50
        cgroup.freeze()
        cgroup.kill()
        assert cgroup.pids() == []
    finally:
        cgroup.kill()
        process.communicate()
        cgroup.remove()


@pytest.mark.requires("cgroup1")
def test_nested_cgroups_of_the_container_go_too(hierarchies, parent):
    path = f"{parent}/outer"
    cgroup = create_cgroup(hierarchies, path, parse_resources({}))
    os.makedirs(f"{hierarchies.directory('pids')}{path}/in/ner")
    cgroup.remove()
    assert not os.path.exists(f"{hierarchies.directory('pids')}{path}")


def test_device_program_passes_the_verifier(hierarchies, parent):
    """The kernel loads and enforces the v2 program; the unified hierarchy of a hybrid machine is enough for it."""
    if hierarchies.unified is None:
        pytest.skip("no cgroup2 mount")
    from orlop.kernel import ebpf

    directory = f"{hierarchies.unified}{parent}"
    os.mkdir(directory)
    fd = os.open(directory, os.O_RDONLY)
    try:
        code = program(parse_resources({"devices": default_device_rules()}).devices)
        try:
            loaded = ebpf.prog_load_cgroup_device(code)
        except PermissionError:
            pytest.skip("bpf(2) is not permitted here")
        ebpf.prog_attach_cgroup_device(fd, loaded)
        assert len(ebpf.prog_query_cgroup_device(fd)) == 1
        check = (
            f"open({directory!r} + '/cgroup.procs', 'w').write('0')\n"
            "open('/dev/null', 'w').close()\n"
            "import os\nos.mknod('/tmp/orlop-t-fuse-' + str(os.getpid()), 0o20600, os.makedev(10, 229))\n"
            "try:\n open('/tmp/orlop-t-fuse-' + str(os.getpid()))\nexcept PermissionError:\n print('refused')\n"
            "finally:\n os.unlink('/tmp/orlop-t-fuse-' + str(os.getpid()))\n"
        )
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
        assert done.stdout == "refused\n", done.stderr
        ebpf.prog_detach_cgroup_device(fd, loaded)
        assert ebpf.prog_query_cgroup_device(fd) == []
        os.close(loaded)
    finally:
        os.close(fd)
        os.rmdir(directory)


def test_opening_what_is_not_there(hierarchies, parent):
    cgroup = open_cgroup(hierarchies, f"{parent}/nothing")
    assert cgroup.pids() == []
    with pytest.raises(SystemFailureError, match="unable to open cgroup"):
        cgroup.join(cloned=False)
    cgroup.kill()
    cgroup.remove()
    with pytest.raises(ValueError, match="closed"):
        cgroup.join(cloned=False)
