"""Run the checks of config.json's properties against orlop-runtime, and its peers where they are (ORLOP_PEERS)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from configuration import CHECKS, DIFFERS
from runtime import make_runtime, orlop_runtime

PEERS = os.environ.get("ORLOP_PEERS", "")
pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox", "cgroup1")]


@pytest.fixture(scope="module", params=["orlop-runtime", "runc", "crun"])
def runtime(request):
    if request.param == "orlop-runtime":
        with orlop_runtime() as made:
            yield made
        return
    if not PEERS:
        pytest.skip("ORLOP_PEERS is not set")
    exchange = Path(os.environ.get("PEERS_HOME", "/var/tmp/peers")) / "xchg"
    made = make_runtime([PEERS, "exec", request.param], exchange, "/xchg")
    yield made
    made.destroy()


@pytest.mark.parametrize("check", CHECKS)
def test_configuration(runtime, check):
    name = Path(runtime.command[-1]).name
    if check in DIFFERS.get(name, ()):
        pytest.skip(f"{name} does not do this")
    CHECKS[check](runtime)
