"""The v2 cgroup on a plain directory that makes a kernel's files appear (no v2 controllers on a hybrid machine)."""

from __future__ import annotations

import os

import pytest

from orlop.errors import SystemFailureError, UnsupportedError
from orlop.runtime.cgroups import create_cgroup, open_cgroup
from orlop.runtime.cgroups.hierarchy import Hierarchies
from orlop.runtime.cgroups.v2 import CgroupV2
from orlop.spec.oci import parse_resources

FILES = {
    "cgroup.controllers": "cpu memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.procs": "",
    "cgroup.kill": "",
    "cgroup.freeze": "0\n",
    "cgroup.events": "populated 0\nfrozen 1\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.events": "oom_kill 0\n",
    "memory.current": "4096\n",
    "memory.stat": "anon 5\n",
    "cpu.max": "max 100000\n",
    "cpu.stat": "usage_usec 7\nuser_usec 5\nsystem_usec 2\n",
    "pids.max": "max\n",
    "pids.current": "3\n",
}


def populate(directory: str) -> None:
    for name, text in FILES.items():
        with open(f"{directory}/{name}", "w") as file:
            file.write(text)


@pytest.fixture
def hierarchies(tmp_path, monkeypatch):
    mkdir, rmdir = os.mkdir, os.rmdir

    def make(path, mode=0o777, **options):
        mkdir(path, mode, **options)
        populate(path)

    def remove(path, **options):
        for name in FILES:
            if os.path.exists(f"{path}/{name}"):
                os.unlink(f"{path}/{name}")
        rmdir(path, **options)

    populate(str(tmp_path))
    attached = []
    monkeypatch.setattr(os, "mkdir", make)
    monkeypatch.setattr(os, "rmdir", remove)
    monkeypatch.setattr(CgroupV2, "_attach_devices", lambda _, rules: attached.append(rules))
    found = Hierarchies((), str(tmp_path), frozenset({"cpu", "memory", "pids"}))
    yield found
    monkeypatch.undo()


def text(hierarchies, path: str) -> str:
    with open(f"{hierarchies.unified}/{path}") as file:
        return file.read()


def test_create_hands_controllers_down_and_writes_limits(hierarchies):
    resources = parse_resources({"memory": {"limit": 64, "swap": 96}, "pids": {"limit": 5}, "cpu": {"quota": 50000}})
    cgroup = create_cgroup(hierarchies, "/parent/one", resources)
    assert text(hierarchies, "cgroup.subtree_control") == "+cpu +memory +pids"
    assert text(hierarchies, "parent/cgroup.subtree_control") == "+cpu +memory +pids"
    assert text(hierarchies, "parent/one/cgroup.subtree_control") == ""
    assert text(hierarchies, "parent/one/memory.max").startswith("64")
    assert text(hierarchies, "parent/one/memory.swap.max").startswith("32")
    assert text(hierarchies, "parent/one/pids.max").startswith("5")
    assert text(hierarchies, "parent/one/cpu.max").startswith("50000 100000")
    assert cgroup.join_fds == ()
    assert os.path.samestat(os.fstat(cgroup.clone_fd), os.stat(f"{hierarchies.unified}/parent/one"))
    assert cgroup.stats()["pids_stats"]["current"] == 3
    assert cgroup.stats()["cpu_stats"]["cpu_usage"]["total_usage"] == 7000
    cgroup.join(cloned=False)
    assert text(hierarchies, "parent/one/cgroup.procs") == "0"
    cgroup.close()


def test_what_is_gone_is_thawed_and_not_frozen(hierarchies):
    """A container that is removed while it is paused: its end may take the cgroup away first."""
    cgroup = create_cgroup(hierarchies, "/one", parse_resources({}))
    cgroup.freeze()
    os.unlink(f"{hierarchies.unified}/one/cgroup.freeze")
    cgroup.thaw()
    with pytest.raises(SystemFailureError, match="does not support"):
        cgroup.freeze()
    cgroup.remove()
    cgroup.thaw()
    with pytest.raises(FileNotFoundError):
        cgroup.freeze()


def test_freeze_kill_events_update(hierarchies):
    cgroup = create_cgroup(hierarchies, "/one", parse_resources({}))
    cgroup.freeze()
    assert text(hierarchies, "one/cgroup.freeze").startswith("1")
    cgroup.kill()
    assert text(hierarchies, "one/cgroup.kill") == "1"
    assert text(hierarchies, "one/cgroup.freeze").startswith("0")
    events = cgroup.oom_events()
    assert not events.killed()
    with open(f"{hierarchies.unified}/one/memory.events", "w") as file:
        file.write("oom 1\noom_kill 1\n")
    assert events.killed()
    events.drain()
    events.close()
    cgroup.update(parse_resources({"pids": {"limit": -1}}))
    assert text(hierarchies, "one/pids.max").startswith("max")
    cgroup.remove()
    assert not os.path.exists(f"{hierarchies.unified}/one")


def test_failure_leaves_nothing(hierarchies):
    with pytest.raises(UnsupportedError, match="does not support the cpuset cgroup controller"):
        create_cgroup(hierarchies, "/one", parse_resources({"cpu": {"cpus": "0"}}))
    assert not os.path.exists(f"{hierarchies.unified}/one")
    assert open_cgroup(hierarchies, "/one").pids() == []
