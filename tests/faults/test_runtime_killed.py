"""``kill -9`` of orlop-runtime while it makes a container: ``delete --force`` leaves nothing of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))


from harness import wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox", "cgroup1")]


def of_container(identity: str) -> list[str]:
    """Return its cgroups and the processes that it, or its runtime, left."""
    left = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/*/{identity}")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if identity.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                left.append(f"process {pid}")
        except OSError:
            continue
    return left


def test_killed_create_is_deleted_by_force(runtime):
    identity, bundle = runtime.bundle()
    begun = time.monotonic()
    runtime.expect("create", "--bundle", bundle, identity)
    whole = time.monotonic() - begun
    runtime.expect("delete", "--force", identity)
    randomness = random.Random(5)
    for _ in range(25):
        identity, bundle = runtime.bundle()
        process = subprocess.Popen(
            runtime.line("create", "--bundle", bundle, identity),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(randomness.uniform(0.3, 1.1) * whole)
        process.kill()
        process.wait()
        runtime.expect("delete", "--force", identity)
        wait_for(lambda identity=identity: not of_container(identity), seconds=5, what=f"the end of {identity}")


def test_creating_is_a_state_of_its_own(runtime):
    identity, bundle = runtime.bundle()
    process = subprocess.Popen(
        runtime.line("create", "--bundle", bundle, identity),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    document = runtime.home / "state" / identity / "state.json"
    while process.poll() is None and not document.exists():
        pass
    assert document.exists()
    process.kill()
    process.wait()
    state = runtime.state(identity)
    if state["status"] == "creating":  # else it was done before the signal came
        assert state["pid"] == 0
        for verb in ("start", "kill", "pause", "delete"):
            runtime.refuses(verb, identity)
        runtime.refuses("exec", identity, "true")
        runtime.refuses("create", "--bundle", bundle, identity)
    runtime.expect("delete", "--force", identity)
    runtime.refuses("state", identity)
    wait_for(lambda: not of_container(identity), seconds=5, what=f"the end of {identity}")
