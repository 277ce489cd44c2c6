"""``docker update``: at once, after a restart of the container, and after one of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]

MIB = 1 << 20
# controller, v1's file, v2's file
FILES = {
    "memory": ("memory", "memory.limit_in_bytes", "memory.max"),
    "quota": ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    "shares": ("cpu", "cpu.shares", "cpu.weight"),
    "pids": ("pids", "pids.max", "pids.max"),
    "cpus": ("cpuset", "cpuset.cpus", "cpuset.cpus"),
}


def limits(engine, name: str, *wanted: str) -> dict[str, str]:
    path = f"{engine.cgroup_parent}/{engine.inspect(name)['Id']}".lstrip("/")
    found = {}
    for limit in wanted or FILES:
        controller, old, new = FILES[limit]
        file = Path("/sys/fs/cgroup", controller, path, old)
        text = (file if file.exists() else Path("/sys/fs/cgroup", path, new)).read_text()
        found[limit] = text.split()[0]
    return found


def test_changes_are_kept(own_engine):
    engine = own_engine
    engine.docker("run", "-d", "--name", "box", "-m", "64m", "--pids-limit", "40", "busybox", "sleep", "600")
    changes = ["--memory", "96m", "--memory-swap", "128m", "--cpus", "0.25", "--cpu-shares", "2", "--pids-limit", "50"]
    engine.docker("update", *changes, "--cpuset-cpus", "0", "box")
    expected = {"memory": str(96 * MIB), "quota": "25000", "pids": "50", "cpus": "0"}
    expected["shares"] = "2" if Path("/sys/fs/cgroup/cpu/cpu.shares").exists() else "1"
    assert limits(engine, "box") == expected
    engine.docker("restart", "-t", "0", "box")
    assert limits(engine, "box") == expected
    engine.kill()
    engine.start()
    assert limits(engine, "box") == expected
    # what runs keeps its cgroup, whatever new containers get
    engine.kill()
    parent, engine.parent = engine.parent, f"/{engine.name}/other"
    engine.start()
    engine.docker("update", "--pids-limit", "-1", "box")
    assert engine.docker("exec", "box", "echo", "in").stdout == "in\n"
    assert engine.docker("stats", "--no-stream", "--format", "{{.PIDs}}", "box").stdout == "1\n"
    engine.parent = parent
    assert limits(engine, "box", "pids") == {"pids": "max"}


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        (
            ["-m", "64m"],
            ["-m", "300m"],
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
        (
            ["--cpus", "0.5"],
            ["--cpu-quota", "20000"],
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            ["--cpu-quota", "50000"],
            ["--cpus", "1"],
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
    ],
)
def test_contradictions_with_what_is_set(engine, options, changes, words):
    engine.docker("create", "--name", "box", *options, "busybox")
    refused = engine.docker("update", *changes, "box", check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith(f"Cannot update container {engine.inspect('box')['Id']}: {words}")


def test_what_is_not_there_cannot_be_limited(engine):
    refused = engine.docker("create", "--cgroup-parent", "/../../x", "busybox", check=False)
    assert "invalid cgroup path" in refused.stderr
