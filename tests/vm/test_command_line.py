"""orlop-runtime's command line on the unified hierarchy, and checkpoints with Debian's criu on Debian's kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))

from limits import checkpoint_restore, events, lazy_restore, out_of_memory_event, restore_executes_hooks

pytestmark = pytest.mark.vm(long=True)


def files(runtime, identity: str, *names: str) -> list[str]:
    directory = Path("/sys/fs/cgroup", runtime.parent.strip("/"), identity)
    return [(directory / name).read_text().strip() for name in names]


def test_update_is_effective_and_kept(runtime):
    with runtime.running() as identity:
        flags = ("--memory", "64m", "--memory-swap", "96m", "--cpu-quota", "20000", "--cpu-period", "50000")
        runtime.expect("update", *flags, "--pids-limit", "20", "--cpuset-cpus", "0", identity)
        expected = [str(64 << 20), str(32 << 20), "20000 50000", "20", "0"]
        names = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")
        assert files(runtime, identity, *names) == expected
        # the one that is not named counts as well: v2 limits the difference
        runtime.expect("update", "--memory", "48m", identity)
        assert files(runtime, identity, *names[:2]) == [str(48 << 20), str(48 << 20)]
        runtime.expect("update", "--memory-swap", "100m", identity)
        assert files(runtime, identity, *names[:2]) == [str(48 << 20), str(52 << 20)]
        runtime.expect("update", "--memory", "-1", identity)
        assert files(runtime, identity, *names[:2]) == ["max", "max"]
        runtime.expect("update", "--memory", "80m", "--memory-swap", "-1", identity)
        assert files(runtime, identity, *names) == [str(80 << 20), "max", *expected[2:]]
        kept = json.loads((runtime.home / "state" / identity / "config.json").read_text())["linux"]["resources"]
        assert kept["memory"] == {"limit": 80 << 20, "swap": -1}
        assert kept["cpu"] == {"quota": 20000, "period": 50000, "cpus": "0"}


def test_events(runtime):
    events(runtime)


def test_out_of_memory_event(runtime):
    out_of_memory_event(runtime)


def test_checkpoint_and_restore(runtime):
    checked = subprocess.run(["criu", "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    checkpoint_restore(runtime)


def test_hooks_at_a_restore(runtime):
    restore_executes_hooks(runtime)


def test_memory_that_is_fetched_later(runtime):
    lazy_restore(runtime)
