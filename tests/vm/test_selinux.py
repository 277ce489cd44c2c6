"""SELinux, which a kernel has instead of AppArmor: a machine of its own, booted by the host's pytest (``make test-vm``)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from vm.machine import Machine, obstacle

pytestmark = [
    pytest.mark.boots,
    pytest.mark.skipif(os.environ.get("ORLOP_VM") != "1", reason="boots a machine of its own: make test-vm"),
]
SECONDS = 600


@pytest.mark.timeout(SECONDS + 60)
def test_labels_of_programs_and_file_systems():
    if obstacle():
        pytest.skip(obstacle())
    inside = str(Path(__file__).with_name("selinux_inside.py"))
    with Machine([sys.executable, inside], security="selinux") as machine:
        deadline = time.monotonic() + SECONDS
        while machine.exchange.running() and time.monotonic() < deadline:
            time.sleep(0.5)
        output = machine.exchange.output()
        assert machine.wait(30) == 0, output[-4000:]
    for check in ("without_selinux", "labels", "execs", "unknown_labels"):
        assert f"passed: {check}" in output, output[-4000:]
