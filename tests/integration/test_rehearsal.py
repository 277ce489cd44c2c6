"""What the spawner and its workers go through before there is a container (runtime.rehearsal)."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root")]

ADAPTED = """
import dis
from orlop.runtime.cgroups import detect
from orlop.runtime.operations import make_filesystem
from orlop.runtime.rehearsal import Rehearsal
from orlop.spec.launch import from_message
from orlop.spec.oci import parse_config

def adapted(function):
    plain, now = ({one.opname for one in dis.get_instructions(function, adaptive=how)} for how in (False, True))
    return bool(now - plain)

hot = from_message, parse_config, make_filesystem
assert not any(map(adapted, hot))
Rehearsal(detect()).warm_up()
assert all(map(adapted, hot))
"""

LEFT = """
import gc, os
from orlop.runtime.cgroups import detect
from orlop.runtime.rehearsal import Rehearsal

def seen():
    return os.listdir("/proc/self/fd"), open("/proc/self/mountinfo").read().count(chr(10))

gc.disable()  # as in a worker
rehearsal = Rehearsal(detect())
before = seen()
rehearsal.warm_up()
rehearsal.once()
assert seen() == before, (before, seen())
"""


@pytest.mark.parametrize("code", [ADAPTED, LEFT], ids=["code is adapted", "nothing is left or made"])
def test_a_rehearsal(code: str) -> None:
    done = subprocess.run(["unshare", "-m", sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
