"""containerd, Podman and Slurm run containers with orlop-runtime; each script can be run alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = {
    "with_containerd.py": ("containerd", "ctr", "containerd-shim-runc-v2"),
    "with_podman.py": ("podman", "conmon"),
    "with_slurm.py": ("slurmctld", "slurmd", "srun"),
}
SEARCHED = "/usr/sbin:/usr/bin:/sbin:/bin"

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "mountns", "busybox", "cgroup1")]


@pytest.mark.parametrize("script", PROGRAMS)
@pytest.mark.timeout(300)
def test_caller(script):
    missing = [program for program in PROGRAMS[script] if shutil.which(program, path=SEARCHED) is None]
    if missing and os.environ.get("CALLERS") != "required":
        pytest.skip(f"needs {', '.join(missing)}: make conformance")
    command = [sys.executable, str(Path(__file__).with_name(script))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
