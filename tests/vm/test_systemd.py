"""The systemd cgroup driver with the real systemd: for the engine and for orlop-runtime."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from runtime import make_runtime

from harness import BIN, wait_for

pytestmark = pytest.mark.vm

MIB = 1 << 20


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False, timeout=300).stdout


def shown(unit: str, *properties: str) -> list[str]:
    text = systemctl("show", unit, *(f"--property={name}" for name in properties))
    found = dict(line.split("=", 1) for line in text.splitlines())
    return [found[name] for name in properties]


def unit_of(engine, name: str) -> str:
    return f"orlop-{engine.inspect(name)['Id']}.scope"


def files(engine, name: str, *names: str) -> list[str]:
    directory = Path("/sys/fs/cgroup/orlop.slice/orlop-t.slice", unit_of(engine, name))
    return [(directory / file).read_text().strip() for file in names]


@pytest.fixture
def engine(other_engine):
    yield other_engine
    other_engine.remove_containers()


def test_a_container_is_a_scope_and_survives_reload_and_restart(engine):
    assert json.loads(engine.docker("info", "--format", "{{json .CgroupDriver}}").stdout) == "systemd"
    options = ["-m", "64m", "--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "40", "--cpuset-cpus", "0"]
    engine.docker("run", "-d", "--name", "box", *options, "busybox", "sleep", "600")
    unit = unit_of(engine, "box")
    names = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max", "cpuset.cpus")
    limits = [str(64 * MIB), str(64 * MIB), "50000 100000", "20", "40", "0"]
    assert files(engine, "box", *names) == limits
    asked = ("Slice", "ActiveState", "Delegate", "MemoryMax", "TasksMax", "CPUWeight", "AllowedCPUs")
    assert shown(unit, *asked) == ["orlop-t.slice", "active", "yes", str(64 * MIB), "40", "20", "0"]
    # init alone: what the scope was made around is gone
    assert files(engine, "box", "cgroup.procs") == [str(engine.inspect("box")["State"]["Pid"])]
    systemctl("daemon-reload")
    assert files(engine, "box", *names) == limits
    refused = engine.docker("exec", "box", "sh", "-c", "mknod /tmp/x b 254 0 && cat /tmp/x", check=False)
    assert "Operation not permitted" in refused.stderr
    engine.docker("update", "--memory", "96m", "--memory-swap", "128m", "--pids-limit", "50", "box")
    limits[:2], limits[4] = [str(96 * MIB), str(32 * MIB)], "50"
    assert files(engine, "box", *names) == limits
    systemctl("daemon-reload")
    assert shown(unit, "MemoryMax", "TasksMax") == [str(96 * MIB), "50"]
    assert files(engine, "box", *names) == limits
    engine.docker("restart", "-t", "0", "box")
    assert files(engine, "box", *names) == limits
    engine.docker("pause", "box")
    assert engine.inspect("box")["State"]["Paused"]
    engine.docker("rm", "-f", "box")
    wait_for(lambda: shown(unit, "LoadState") == ["not-found"])


def test_out_of_memory_leaves_no_unit(engine):
    script = "x=a; while true; do x=$x$x; done"
    options = ["-m", "32m", "--memory-swap", "32m"]
    done = engine.docker("run", "--name", "box", *options, "busybox", "sh", "-c", script, check=False)
    assert done.returncode == 137
    assert engine.inspect("box")["State"]["OOMKilled"]
    wait_for(lambda: shown(unit_of(engine, "box"), "LoadState") == ["not-found"])


def test_names_that_are_no_slices_are_refused(engine):
    for parent in ("/x", "a.scope", "../x.slice", "a--b.slice"):
        refused = engine.docker("create", "--cgroup-parent", parent, "busybox", check=False)
        assert refused.returncode == 1
        assert 'should be a valid slice named as "xxx.slice"' in refused.stderr


@pytest.mark.vm(long=True)
def test_runtime_makes_scopes(tmp_path):
    runtime = make_runtime([str(BIN / "orlop-runtime")], tmp_path, str(tmp_path))
    limits = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 40}, "unified": {"memory.high": str(48 * MIB)}}
    changes = {"linux__resources": limits, "linux__cgroupsPath": "orlop-t.slice:oci:box"}
    name, bundle = runtime.bundle("sleep", "600", **changes)
    try:
        runtime.refuses("create", "--bundle", bundle, name, words="systemd cgroup driver is not in use")
        other, plain = runtime.bundle("sleep", "600")
        runtime.refuses("--systemd-cgroup", "create", "--bundle", plain, other, words="slice:prefix:name")
        runtime.expect("--systemd-cgroup", "run", "--detach", "--bundle", bundle, name, timeout=200)
        scope = Path("/sys/fs/cgroup/orlop.slice/orlop-t.slice/oci-box.scope")
        asked = ("MemoryMax", "MemoryHigh", "TasksMax", "Delegate")
        assert shown("oci-box.scope", *asked) == [str(64 * MIB), str(48 * MIB), "40", "yes"]
        assert (scope / "cgroup.procs").read_text().split() == [str(runtime.state(name)["pid"])]
        runtime.expect("update", "--pids-limit", "50", name, timeout=200)
        assert (scope / "pids.max").read_text() == "50\n"
        assert shown("oci-box.scope", "TasksMax") == ["50"]
        assert runtime.expect("exec", name, "cat", "/proc/self/cgroup", timeout=200).strip().endswith("/oci-box.scope")
        runtime.expect("pause", name, timeout=200)
        runtime.expect("resume", name, timeout=200)
        runtime.expect("delete", "--force", name, timeout=200)
        wait_for(lambda: shown("oci-box.scope", "LoadState") == ["not-found"])
    finally:
        runtime.destroy()


@pytest.mark.vm(long=True)
def test_another_driver_finds_what_runs(engine):
    engine.docker("run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "600")
    unit = unit_of(engine, "box")
    own = engine.options, engine.parent
    engine.kill()
    engine.options, engine.parent = (), ""
    try:
        engine.start()
        assert engine.docker("exec", "box", "echo", "hi").stdout == "hi\n"
        engine.docker("update", "--pids-limit", "30", "box")
        assert shown(unit, "TasksMax") == ["30"]
        engine.docker("rm", "-f", "box")
        wait_for(lambda: shown(unit, "LoadState") == ["not-found"])
    finally:  # tests come in any order
        engine.kill()
        engine.options, engine.parent = own
        engine.start()
