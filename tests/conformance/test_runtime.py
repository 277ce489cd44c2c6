"""Run the OCI suite against orlop-runtime, and against runc and crun where they are (ORLOP_PEERS names the tool)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import COMMANDS, DIFFERS
from runtime import CHECKS, make_runtime

from harness import BIN

PEERS = os.environ.get("ORLOP_PEERS", "")

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox", "cgroup1")]


@pytest.fixture(scope="module", params=["orlop-runtime", "runc", "crun"])
def runtime(request):
    if request.param == "orlop-runtime":
        with tempfile.TemporaryDirectory(prefix="orlop-t-") as directory:
            made = make_runtime([str(BIN / "orlop-runtime")], Path(directory), directory)
            yield made
            made.destroy()
        return
    if not PEERS:
        pytest.skip("ORLOP_PEERS is not set")
    exchange = Path(os.environ.get("PEERS_HOME", "/var/tmp/peers")) / "xchg"
    made = make_runtime([PEERS, "exec", request.param], exchange, "/xchg")
    yield made
    made.destroy()


@pytest.mark.parametrize("check", CHECKS)
def test_runtime(runtime, check):
    CHECKS[check](runtime)


@pytest.mark.parametrize("check", COMMANDS)
def test_commands(runtime, check):
    if check in DIFFERS.get(runtime.name, ()):
        pytest.skip(f"{runtime.name} differs: see commands.py")
    COMMANDS[check](runtime)
