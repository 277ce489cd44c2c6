"""AppArmor: the default profile, one's own, and what cannot be had is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from runtime import make_runtime

from harness import BIN

pytestmark = pytest.mark.vm

CURRENT = "cat /proc/self/attr/current"
DEFAULT = "docker-default (enforce)"
OWN = """
profile orlop-t-own flags=(attach_disconnected) {
  file,
  capability,
  network,
  signal,
  deny /tmp/secret rw,
}
"""


@pytest.fixture(scope="module")
def own_profile():
    subprocess.run(["apparmor_parser", "-r", "-K"], input=OWN, text=True, check=True)
    yield "orlop-t-own"
    Path("/sys/kernel/security/apparmor/.remove").write_text("orlop-t-own")


def run(engine, *arguments: str) -> str:
    """Return what a container prints, its errors too."""
    *options, script = arguments
    done = engine.docker("run", "--rm", *options, "busybox", "sh", "-c", f"exec 2>&1; {script}", check=False)
    return done.stdout.strip() or done.stderr.strip()


def test_every_process_of_a_container_has_the_default_profile(engine):
    assert "name=apparmor" in json.loads(engine.docker("info", "--format", "{{json .SecurityOptions}}").stdout)
    engine.docker("run", "-d", "--init", "--name", "box", "busybox", "sleep", "600")
    assert engine.inspect("box")["AppArmorProfile"] == "docker-default"
    pid = engine.inspect("box")["State"]["Pid"]
    assert Path(f"/proc/{pid}/attr/current").read_text().strip() == DEFAULT
    inside = "cat /proc/1/attr/current /proc/self/attr/current"
    for options in ([], ["--privileged"], ["-u", "1000"]):
        shown = engine.docker("exec", *options, "box", "sh", "-c", inside, check=False).stdout.splitlines()
        assert shown[-1] == DEFAULT
    assert shown == [DEFAULT, DEFAULT]
    # what the engine does to a container is allowed
    engine.docker("stop", "-t", "1", "box")
    assert run(engine, "--security-opt", "no-new-privileges", CURRENT) == DEFAULT


@pytest.mark.parametrize("options", [["--privileged"], ["--security-opt", "apparmor=unconfined"]])
def test_unconfined(engine, options):
    assert run(engine, *options, CURRENT) == "unconfined"


def test_what_the_default_profile_denies(engine):
    """Everything else is opened, so that it is the profile and nothing else that says no."""
    open_up = ["--cap-add", "all", "--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"]
    script = (
        "mkdir /tmp/m; mount -t tmpfs none /tmp/m && echo mounted; echo h > /proc/sysrq-trigger && echo sysrq;"
        "echo 1 > /proc/sys/vm/drop_caches && echo drop; echo 4000 > /proc/sys/kernel/shmmni && echo shm;"
        "for name in /sys/firmware/*; do ls $name >/dev/null && echo firmware; done;"
        "echo x > /tmp/plain && echo file; kill -0 1 && echo signal"
    )
    lines = run(engine, *open_up, script).splitlines()
    assert [line for line in lines if ":" not in line] == ["shm", "file", "signal"]
    denied = [line for line in lines if "ermission denied" in line]
    for name in ("mount", "sysrq-trigger", "drop_caches", "/sys/firmware/"):
        assert any(name in line for line in denied), lines
    lines = run(engine, *open_up, "--security-opt", "apparmor=unconfined", script).splitlines()
    assert {"mounted", "drop", "shm", "file"} <= set(lines)


@pytest.mark.vm(long=True)
def test_own_profile_is_kept(own_engine, own_profile):
    engine = own_engine
    options = ["--security-opt", f"apparmor={own_profile}"]
    script = "cat /proc/self/attr/current; echo x > /tmp/open; echo x > /tmp/secret; sleep 600"
    engine.docker("run", "-d", "--name", "box", *options, "busybox", "sh", "-c", script)
    assert engine.inspect("box")["AppArmorProfile"] == own_profile
    done = engine.docker("exec", "box", "sh", "-c", "echo x > /tmp/secret", check=False)
    assert "Permission denied" in done.stderr
    engine.kill()
    engine.start()
    shown = engine.docker("exec", "box", "cat", "/proc/self/attr/current").stdout
    assert shown == f"{own_profile} (enforce)\n"
    engine.docker("restart", "-t", "0", "box")
    logs = engine.docker("logs", "box")
    assert logs.stdout.splitlines() == [f"{own_profile} (enforce)"] * 2
    assert logs.stderr.count("Permission denied") == 2


def test_unknown_profile_is_refused(engine, own_profile):
    refused = engine.docker("create", "--security-opt", "apparmor=nonsense", "busybox", check=False)
    assert refused.returncode == 1
    assert "AppArmor profile is not loaded: nonsense" in refused.stderr
    engine.docker("create", "--name", "box", "--security-opt", f"apparmor={own_profile}", "busybox", "true")
    Path("/sys/kernel/security/apparmor/.remove").write_text(own_profile)
    try:
        refused = engine.docker("start", "box", check=False)
        assert refused.returncode == 1
        assert f"unable to apply apparmor profile {own_profile}" in refused.stderr
        assert not engine.inspect("box")["State"]["Running"]
    finally:
        subprocess.run(["apparmor_parser", "-r", "-K"], input=OWN, text=True, check=True)


def test_default_profile_is_loaded_again(engine):
    Path("/sys/kernel/security/apparmor/.remove").write_text("docker-default")
    assert run(engine, CURRENT) == DEFAULT


@pytest.mark.vm(long=True)
def test_runtime_applies_a_profile(tmp_path, own_profile):
    runtime = make_runtime([str(BIN / "orlop-runtime")], tmp_path, str(tmp_path))
    try:
        done = runtime.run(CURRENT, process__apparmorProfile=own_profile, timeout=200)
        assert done.stdout == f"{own_profile} (enforce)\n", done.stderr
        refused = runtime.run(CURRENT, process__apparmorProfile="nonsense", timeout=200)
        assert "unable to apply apparmor profile nonsense" in refused.stderr
        with runtime.running("sleep", "600", process__apparmorProfile=own_profile) as name:
            assert runtime.expect("exec", name, "cat", "/proc/self/attr/current", timeout=200).startswith(own_profile)
            other = ("exec", "--apparmor", "docker-default", name, "cat", "/proc/self/attr/current")
            assert runtime.expect(*other, timeout=200).strip() == DEFAULT
        refused = runtime.run(CURRENT, process__selinuxLabel="a:b:c:s0", timeout=200)
        assert "SELinux is not supported on this host" in refused.stderr
    finally:
        runtime.destroy()
