"""AppArmor profiles on a kernel that has AppArmor: entered at execve, by runs, execs and hooks; never ignored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from hooks import shell
from runtime import orlop_runtime

pytestmark = pytest.mark.vm

PROFILE = """
#include <tunables/global>
profile orlop-test flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  mount,
  umount,
  signal,
  deny /tmp/secret rw,
}
"""


@pytest.fixture(scope="module")
def runtime():
    subprocess.run(["apparmor_parser", "--replace"], input=PROFILE, text=True, check=True)
    with orlop_runtime() as made:
        yield made
    subprocess.run(["apparmor_parser", "--remove"], input=PROFILE, text=True, check=True)


@pytest.mark.parametrize("unprivileged", [True, False])
def test_profile_confines_the_program(runtime, unprivileged):
    done = runtime.run(
        "cat /proc/self/attr/current; touch /tmp/fine && touch /tmp/secret",
        process__apparmorProfile="orlop-test",
        process__noNewPrivileges=unprivileged,
    )
    assert done.stdout == "orlop-test (enforce)\n"
    assert "Permission denied" in done.stderr


def test_profile_confines_hooks_and_execs(runtime):
    hook = shell("test \"$(cat /proc/self/attr/current)\" = 'orlop-test (enforce)'")
    with runtime.running(
        "sleep", "600", process__apparmorProfile="orlop-test", hooks={"startContainer": [hook]}
    ) as identity:
        assert runtime("exec", identity, "cat", "/proc/self/attr/current").stdout == "orlop-test (enforce)\n"
        process = {"args": ["cat", "/proc/self/attr/current"], "cwd": "/", "env": ["PATH=/bin"]}
        for profile, shown in (("", "orlop-test (enforce)\n"), ("unconfined", "unconfined\n")):
            (runtime.home / "process.json").write_text(json.dumps({**process, "apparmorProfile": profile}))
            assert runtime("exec", "--process", f"{runtime.seen}/process.json", identity).stdout == shown
        other = runtime("exec", "--apparmor", "unconfined", identity, "cat", "/proc/self/attr/current")
        assert other.stdout == "unconfined\n", other


def test_profile_that_is_not_loaded_is_refused(runtime):
    identity, bundle = runtime.bundle("true", process__apparmorProfile="nosuch")
    runtime.refuses("run", "-b", bundle, identity, words="unable to apply apparmor profile nosuch")
    runtime.refuses("state", identity)
