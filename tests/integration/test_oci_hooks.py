"""Hooks of config.json where the peers' suite does not reach: failing ones at the start, what they hold, where they are."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from hooks import log_directory, log_mount, recording_hooks, shell
from runtime import CONFIG

from harness import has_ended, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox", "cgroup1")]


def test_a_failing_hook_at_the_start_destroys_the_container(runtime):
    for name in ("startContainer", "poststart"):
        log = log_directory(runtime)
        hooks = recording_hooks(runtime)
        hooks[name][0] = shell("echo words >&2; exit 4")
        program = "echo program >> /log/order; exec sleep 60"
        identity, bundle = runtime.bundle(
            *("sh", "-c", program), mounts=[*CONFIG["mounts"], log_mount(runtime)], hooks=hooks
        )
        runtime.expect("create", "--bundle", bundle, identity)
        pid = runtime.state(identity)["pid"]
        done = runtime("start", identity)
        assert done.returncode == 1
        assert f"error running {name} hook #0: exit status 4: words" in done.stderr
        assert done.stderr.count("\n") == 1
        runtime.refuses("state", identity)
        assert has_ended(pid)
        order = (log / "order").read_text().split()
        assert order[-2:] == ["poststop-1", "poststop-2"]
        assert name == "poststart" or "program" not in order


def test_poststart_comes_after_execve(runtime):
    log = log_directory(runtime)
    script = f"pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); cat /proc/$pid/comm >> {log}/comm"
    for _ in range(5):
        with runtime.running("sleep", "60", hooks={"poststart": [shell(script)]}):
            pass
    assert (log / "comm").read_text() == "sleep\n" * 5


def test_a_signal_that_comes_before_the_runtime_waits_goes_to_the_program(runtime):
    """Who sees that a container runs may send one at once; its hooks, or its state, are not written yet."""
    log = log_directory(runtime)
    program = "trap 'exit 9' TERM; touch /log/ready; while :; do sleep 0.05; done"
    script = f"until [ -e {log}/ready ]; do sleep 0.05; done; kill -TERM $PPID"
    identity, bundle = runtime.bundle(
        *("sh", "-c", program),
        mounts=[*CONFIG["mounts"], log_mount(runtime)],
        hooks={"poststart": [shell(script)]},
    )
    assert runtime("run", "--bundle", bundle, identity).returncode == 9
    runtime.refuses("state", identity)


def test_start_hears_that_the_program_cannot_be_executed(runtime):
    """Where somebody waits for it: a file without an interpreter passes every check before."""
    program = runtime.home / "rootfs/bin/broken"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    log = log_directory(runtime)
    hooks = {name: [shell(f"touch {log}/{name}")] for name in ("poststart", "poststop")}
    identity, bundle = runtime.bundle("/bin/broken", hooks=hooks)
    runtime.expect("create", "--bundle", bundle, identity)
    runtime.refuses("start", identity, words="no such file or directory")
    runtime.refuses("state", identity)
    assert [path.name for path in log.iterdir()] == ["poststop"]


def test_a_failing_creation_executes_poststop(runtime):
    for name in ("prestart", "createRuntime", "createContainer"):
        log = log_directory(runtime)
        hooks = recording_hooks(runtime)
        hooks[name][1] = shell("kill -9 $$")
        identity, bundle = runtime.bundle("true", mounts=[*CONFIG["mounts"], log_mount(runtime)], hooks=hooks)
        runtime.refuses("run", "-b", bundle, identity, words=f"error running {name} hook #1: killed by signal 9")
        assert (log / "order").read_text().split()[-2:] == ["poststop-1", "poststop-2"]
        assert json.loads((log / "poststop").read_text())["status"] == "stopped"


def test_a_failing_poststop_is_told_of(runtime):
    hooks = {"createRuntime": [shell("exit 1")], "poststop": [shell("exit 5")]}
    identity, bundle = runtime.bundle("true", hooks=hooks)
    done = runtime("create", "--bundle", bundle, identity)
    warning, error = done.stderr.splitlines()
    assert "level=warning" in warning
    assert "error running poststop hook #0: exit status 5" in warning
    assert "error running createRuntime hook #0: exit status 1" in error
    del hooks["createRuntime"]
    identity, bundle = runtime.bundle("true", hooks=hooks)
    done = runtime("run", "--bundle", bundle, identity)
    assert (done.returncode, "level=warning" in done.stderr) == (0, True)


def test_hooks_hold_nothing_and_know_nothing(runtime):
    """No descriptor of the caller, of the host or of the container, no environment but their own, no shell's umask."""
    log = log_directory(runtime)
    hooks = {}
    for name in ("createRuntime", "createContainer", "startContainer", "poststart"):
        to = "/log" if name == "startContainer" else f"{runtime.seen}/log"
        script = f"ls -l /proc/self/fd | grep -c '[0-9] -> ' > {to}/{name}.fds; env > {to}/{name}.env; umask > {to}/{name}.umask"
        hooks[name] = [shell(script)]
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        identity, bundle = runtime.bundle("true", mounts=[*CONFIG["mounts"], log_mount(runtime)], hooks=hooks)
        runtime.expect(
            "run", "--bundle", bundle, identity, env={"SECRET": "1", "PATH": os.environ["PATH"]}, close_fds=False
        )
    finally:
        os.close(reading)
        os.close(writing)
    for name in hooks:
        # 0, 1, 2 and what the host's ls itself opened
        assert (log / f"{name}.fds").read_text() == ("3\n" if name == "startContainer" else "4\n"), name
        assert "SECRET" not in (log / f"{name}.env").read_text()
        assert (log / f"{name}.umask").read_text() == "0022\n"


def test_hooks_of_the_container_have_its_privileges(runtime):
    log = log_directory(runtime)
    log.chmod(0o777)
    script = "grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/self/status > /log/status"
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_KILL"}]}
    for unprivileged in (True, False):
        done = runtime.run(
            "grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/self/status",
            mounts=[*CONFIG["mounts"], log_mount(runtime)],
            hooks={"startContainer": [shell(script)]},
            process__user={"uid": 1000, "gid": 1000},
            process__noNewPrivileges=unprivileged,
            linux__seccomp=profile,
        )
        assert done.returncode == 0, done
        assert (log / "status").read_text() == done.stdout
        assert done.stdout.split()[-1] == "2"
        (log / "status").unlink()


def test_a_hook_that_leaves_something_running_is_not_waited_for(runtime):
    script = "setsid timeout 20 yes & exit 0"
    identity, bundle = runtime.bundle("true", hooks={"createRuntime": [shell(script)]})
    began = time.monotonic()
    runtime.expect("run", "--bundle", bundle, identity)
    assert time.monotonic() - began < 15


def test_all_of_a_slow_hook_is_killed(runtime):
    """Not only the shell: what it started as well, which would hold its output open."""
    log = log_directory(runtime)
    script = f"sleep 47 & echo $! > {log}/pid; wait"
    for seconds in (1, 3, 9):  # a busy machine may need the first ones to come so far
        identity, bundle = runtime.bundle("true", hooks={"createRuntime": [shell(script, timeout=seconds)]})
        runtime.refuses("create", "--bundle", bundle, identity, words=f"took longer than {seconds} s")
        if (log / "pid").exists() and (pid := (log / "pid").read_text().strip()):
            break
    wait_for(lambda: has_ended(pid))


def test_hooks_of_the_host_are_in_its_namespaces(runtime):
    """Also where the parent has joined others on init's behalf."""
    log = log_directory(runtime)
    names = ("net", "ipc", "uts", "pid", "time", "mnt")
    script = f"for n in {' '.join(names)}; do readlink /proc/self/ns/$n; done > {log}/spaces"
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (runtime.home.parent, runtime.home, runtime.home / "rootfs"):
        path.chmod(0o755)
    with runtime.running("sleep", "60") as other:
        pid = runtime.state(other)["pid"]
        joined = [
            {"type": kind, "path": f"/proc/{pid}/ns/{name}"}
            for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        ]
        done = runtime.run(
            "true",
            linux__namespaces=[*joined, *({"type": kind} for kind in ("pid", "mount", "user", "time"))],
            linux__timeOffsets={"boottime": {"secs": 5}},
            linux__uidMappings=mapping,
            linux__gidMappings=mapping,
            hostname="",
            hooks={"createRuntime": [shell(script)]},
        )
        assert done.returncode == 0, done
    assert (log / "spaces").read_text().split() == [os.readlink(f"/proc/self/ns/{name}") for name in names]


def test_hooks_of_the_container_are_waited_for_without_its_filter(runtime):
    """With no_new_privs: a program that may not fork can have hooks."""
    rules = [{"names": ["clone", "clone3", "fork", "vfork"], "action": "SCMP_ACT_ERRNO"}]
    identity, bundle = runtime.bundle(
        "true",
        hooks={"startContainer": [{"path": "/bin/true"}]},
        linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules},
    )
    runtime.expect("run", "--bundle", bundle, identity)
