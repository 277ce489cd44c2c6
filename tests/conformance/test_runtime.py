"""Run the OCI suite against orlop-runtime, and against runc and crun where they are (ORLOP_PEERS names the tool)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import COMMANDS, DIFFERS, NEED_CRIU
from common_checks import CHECKS
from runtime import make_runtime, orlop_runtime

from harness import BIN

PEERS = os.environ.get("ORLOP_PEERS", "")
# a criu that is newer than Debian's, which fails on kernels newer than itself
CRIU = os.environ.get("ORLOP_CRIU", "")
OURS = [str(BIN / "orlop-runtime")]

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox", "cgroup1")]


def works(*command: str) -> bool:
    """Whether a program is there and ends well."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module", params=["orlop-runtime", "runc", "crun"])
def runtime(request):
    if request.param == "orlop-runtime":
        with orlop_runtime() as made:
            made.criu = works(CRIU or "criu", "check")
            made.settings = ("--criu", CRIU) if CRIU else ()
            yield made
        return
    if not PEERS:
        pytest.skip("ORLOP_PEERS is not set")
    exchange = Path(os.environ.get("PEERS_HOME", "/var/tmp/peers")) / "xchg"
    made = make_runtime([PEERS, "exec", request.param], exchange, "/xchg")
    made.criu = works(PEERS, "exec", "criu", "check")
    yield made
    made.destroy()


@pytest.mark.parametrize("check", CHECKS)
def test_runtime(runtime, check):
    CHECKS[check](runtime)


@pytest.mark.parametrize("check", COMMANDS)
def test_commands(runtime, check):
    if check in DIFFERS.get(runtime.name, ()):
        pytest.skip(f"{runtime.name} differs: see commands.py")
    if check in NEED_CRIU and not runtime.criu:
        pytest.skip("needs a criu for this kernel (ORLOP_CRIU)")
    COMMANDS[check](runtime)
