"""The engine's containers on the unified hierarchy, with the real docker client."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness import wait_for

pytestmark = pytest.mark.vm

MIB = 1 << 20


def files(engine, name: str, *names: str) -> list[str]:
    directory = Path("/sys/fs/cgroup", engine.cgroup_parent.strip("/"), engine.inspect(name)["Id"])
    return [(directory / file).read_text().strip() for file in names]


def test_limits_are_the_containers(engine):
    options = [
        "-m",
        "64m",
        "--memory-swap",
        "96m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
    ]
    options += ["--pids-limit", "40", "--cpuset-cpus", "0", "--device-read-bps", "/dev/vda:1mb"]
    engine.docker("run", "-d", "--name", "box", *options, "busybox", "sleep", "600")
    assert files(engine, "box", "memory.max", "memory.swap.max", "memory.low") == [
        str(64 * MIB),
        str(32 * MIB),
        str(32 * MIB),
    ]
    assert files(engine, "box", "cpu.max", "cpu.weight", "pids.max", "cpuset.cpus") == ["50000 100000", "20", "40", "0"]
    assert files(engine, "box", "io.max")[0].startswith("254:0 rbps=1048576 ")
    # the container sees its own cgroup as the root, and cannot change it
    shown = engine.docker("exec", "box", "sh", "-c", "cat /proc/self/cgroup /sys/fs/cgroup/memory.max").stdout
    assert shown.split() == ["0::/", str(64 * MIB)]
    refused = engine.docker("exec", "box", "sh", "-c", "echo max > /sys/fs/cgroup/memory.max", check=False)
    assert "Read-only file system" in refused.stderr


@pytest.mark.vm(long=True)
def test_update_is_kept(own_engine):
    engine = own_engine
    engine.docker("run", "-d", "--name", "box", "-m", "64m", "--pids-limit", "40", "busybox", "sleep", "600")
    changes = ["--memory", "96m", "--memory-swap", "128m", "--cpus", "0.25", "--pids-limit", "50", "--cpuset-cpus", "1"]
    expected = [str(96 * MIB), str(32 * MIB), "25000 100000", "50", "1"]
    names = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")
    engine.docker("update", *changes, "box")
    assert files(engine, "box", *names) == expected
    engine.docker("restart", "-t", "0", "box")
    assert files(engine, "box", *names) == expected
    engine.kill()
    engine.start()
    assert files(engine, "box", *names) == expected
    assert engine.inspect("box")["HostConfig"]["Memory"] == 96 * MIB
    engine.docker("update", "--pids-limit", "-1", "box")
    assert files(engine, "box", "pids.max") == ["max"]


def test_out_of_memory_is_told(engine):
    started = int(time.time()) - 5
    script = "x=a; while true; do x=$x$x; done"
    options = ["-m", "32m", "--memory-swap", "32m"]
    ended = engine.docker("run", "--name", "box", *options, "busybox", "sh", "-c", script, check=False)
    assert ended.returncode == 137
    state = engine.inspect("box")["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)
    window = ["--since", str(started), "--until", str(int(time.time()) + 1)]
    events = engine.docker("events", *window, "--format", "{{.Action}}")
    assert "oom" in events.stdout.split()


def test_pause_stops_every_process(engine):
    loop = "while true; do echo x >> /tmp/count; sleep 0.01; done"
    engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", loop)
    engine.docker("pause", "box")
    assert files(engine, "box", "cgroup.freeze") == ["1"]
    assert "frozen 1" in files(engine, "box", "cgroup.events")[0]
    used = files(engine, "box", "cpu.stat")
    time.sleep(1)
    assert files(engine, "box", "cpu.stat") == used
    engine.docker("unpause", "box")
    wait_for(lambda: files(engine, "box", "cpu.stat") != used)


def test_stats_are_the_files(engine):
    engine.docker("run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "600")
    engine.docker("pause", "box")

    def told() -> tuple[dict, str, str] | None:  # the kernel gives pages of those who started it back a moment later
        status, body = engine.http("GET", "/containers/box/stats?stream=false&one-shot=true")
        assert status == 200
        found = json.loads(body)
        usage, cpu, pids = files(engine, "box", "memory.current", "cpu.stat", "pids.current")
        return (found, cpu, pids) if found["memory_stats"]["usage"] == int(usage) else None

    document, cpu, pids = wait_for(told, what="the usage that the file says")
    assert document["memory_stats"]["limit"] == 64 * MIB
    assert document["memory_stats"]["stats"]["anon"] >= 0
    assert document["cpu_stats"]["cpu_usage"]["total_usage"] == int(cpu.split()[1]) * 1000
    assert document["pids_stats"]["current"] == int(pids) == 1
    shown = engine.docker("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}").stdout
    assert shown.startswith("box 1 ")
    assert shown.endswith("/ 64MiB\n")


def test_devices_are_refused_and_given(engine):
    probe = "mknod /tmp/x b 254 0 && dd if=/tmp/x of=/dev/null bs=1 count=1"
    refused = engine.docker("run", "--rm", "busybox", "sh", "-c", probe, check=False)
    assert "Operation not permitted" in refused.stderr
    options = ["--device", "/dev/vda:/dev/disk:r"]
    engine.docker("run", "--rm", *options, "busybox", "dd", "if=/dev/disk", "of=/dev/null", "count=1")


def test_info_tells_the_version(engine):
    info = json.loads(engine.docker("info", "--format", "{{json .}}").stdout)
    assert (info["CgroupVersion"], info["CgroupDriver"]) == ("2", "cgroupfs")
    assert info["MemoryLimit"]
    assert not [line for line in info["Warnings"] or [] if "No " in line]
