"""``orlop <command>`` starts an engine by itself; in a mount and network namespace of its own, so nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import PATIENCE

ORLOP = Path(sys.executable).parent / "orlop"
SCRIPT = f"""
mount -t tmpfs t /run && mount -t tmpfs t /var/lib && ip link set lo up || exit 1
{ORLOP} ps -q & {ORLOP} ps -q & wait
first=$(cat /run/orlop/orlop.pid)
{ORLOP} version --format 'engine {{{{.Server.Version}}}}'
[ "$first" = "$(cat /run/orlop/orlop.pid)" ] && echo one engine
kill "$first"
for _ in $(seq 500); do [ -d "/proc/$first" ] || break; sleep 0.1; done
[ -d "/proc/$first" ] || echo stopped
grep -c 'listens on' /var/lib/orlop/engine.log
"""


@pytest.mark.privileged
@pytest.mark.requires("root", "netns", "mountns")
def test_an_engine_is_started_once() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    done = subprocess.run(
        ["unshare", "-m", "-n", "--propagation", "private", "sh", "-c", SCRIPT],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    for directory in Path("/sys/fs/cgroup").glob("*/orlop"):
        with contextlib.suppress(OSError):  # others' tests may use it, and remove it
            directory.rmdir()
    assert done.stdout.splitlines() == ["engine 0.1.0", "one engine", "stopped", "1"], done.stderr


def test_none_is_started_where_an_engine_was_named(tmp_path) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = subprocess.run(
        [ORLOP, "ps"], env=environment, capture_output=True, text=True, timeout=20 * PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"Cannot connect to the Docker daemon at unix://{tmp_path}/none.sock. Is the docker daemon running?\n"
    )
