"""What every OCI runtime does: a small suite for the command line, run against orlop-runtime and against its peers.

The peers test the tests: a check that runc and crun fail is wrong. Each check takes a :class:`Runtime` and is
independent of the others; :data:`CHECKS` names them all.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from runtime import CONFIG, Runtime

from harness import busybox_tree, catches, has_ended, wait_for


def lifecycle(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("sleep", "600")
    runtime.expect("create", "--bundle", bundle, identity)
    state = runtime.state(identity)
    assert state["status"] == "created"
    assert state["id"] == identity
    assert state["bundle"] == bundle
    assert state["ociVersion"]
    assert state["pid"] > 0
    runtime.refuses("create", "--bundle", bundle, identity, words="exist")
    runtime.expect("start", identity)
    runtime.wait(identity, "running")
    name = Path(f"/proc/{runtime.state(identity)['pid']}/comm")
    wait_for(lambda: name.read_text() == "sleep\n", what="the program")  # start does not wait for its execve
    runtime.refuses("start", identity)
    runtime.refuses("delete", identity)
    runtime.expect("kill", identity, "KILL")
    runtime.wait(identity, "stopped")
    runtime.refuses("kill", identity, "TERM")
    runtime.refuses("start", identity)
    runtime.expect("delete", identity)
    runtime.refuses("state", identity)
    runtime.refuses("delete", identity)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}"))


def exit_status(runtime: Runtime) -> None:
    assert runtime.run("exit 7").returncode == 7
    # pid 1 ignores what it has no handler for, so the signal comes to a shell that has been given none by its parent
    with runtime.running("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done") as identity:
        wait_for(lambda: catches(runtime.state(identity)["pid"], signal.SIGTERM), what="the shell's trap")
        runtime.expect("kill", identity, "TERM")
        runtime.wait(identity, "stopped")


def missing_program(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("/no/such/program")
    for verb in ("run", "create"):
        done = runtime(verb, "--bundle", bundle, identity)
        assert done.returncode != 0
        assert "no such file or directory" in done.stderr.lower()
        runtime.refuses("state", identity)
    identity, bundle = runtime.bundle("nosuchprogram")
    runtime.refuses("create", "--bundle", bundle, identity, words="not found in $PATH")
    identity, bundle = runtime.bundle("/etc/passwd")
    runtime.refuses("create", "--bundle", bundle, identity)


def environment(runtime: Runtime) -> None:
    script = (
        "hostname; pwd; echo $WORD; echo $$; id -u; ulimit -Sn; ulimit -Hn; umask;"
        "touch /x 2>/dev/null && echo writable; touch /tmp/x && echo tmp;"
        "ip link | grep -c '^[0-9]'; grep -E '^(CapEff|CapBnd|CapInh|NoNewPrivs)' /proc/self/status"
    )
    done = runtime.run(script, process__cwd="/root")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert lines[:8] == ["conformance", "/root", "a b", "1", "0", "100", "200", "0022"]
    assert lines[8:10] == ["tmp", "1"]
    status = dict(line.split(":\t") for line in lines[10:14])
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 5 | 1 << 0
    assert int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def user(runtime: Runtime) -> None:
    done = runtime.run(
        "id -u; id -g; id -G; grep CapEff /proc/self/status",
        process__user={"uid": 1000, "gid": 1001, "additionalGids": [50]},
        process__capabilities={},
    )
    lines = done.stdout.split("\n")
    assert lines[:2] == ["1000", "1001"]
    assert set(lines[2].split()) == {"1001", "50"}
    assert int(lines[3].split()[1], 16) == 0


def devices(runtime: Runtime) -> None:
    done = runtime.run(
        "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done;"
        "head -c 3 /dev/zero | wc -c; echo x >/dev/null && echo written; readlink /dev/fd; readlink /dev/ptmx;"
        "mknod /tmp/mem c 1 1 2>/dev/null; cat /tmp/mem 2>/dev/null && echo leaked; true"
    )
    assert done.stdout.split() == ["3", "written", "/proc/self/fd", "pts/ptmx"], done.stderr


def devices_without_a_mount(runtime: Runtime) -> None:
    """The specification's default devices are there although the configuration mounts nothing on /dev."""
    script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; readlink /dev/fd"
    mounts = [mount for mount in CONFIG["mounts"] if not mount["destination"].startswith("/dev")]
    root = runtime.home / "bare"
    busybox_tree(root)
    done = runtime.run(script, mounts=mounts, root={"path": f"{runtime.seen}/bare", "readonly": True})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "/proc/self/fd\n"
    shutil.rmtree(root)


def protected_paths(runtime: Runtime) -> None:
    done = runtime.run("cat /proc/keys; ls /proc/scsi; echo 1 2>/dev/null >/proc/sys/kernel/shm_rmid_forced || echo ro")
    assert done.stdout == "ro\n", done.stdout


def namespaces(runtime: Runtime) -> None:
    done = runtime.run("for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done; ls -d /proc/[0-9]* | wc -l")
    *found, count = done.stdout.split()
    names = ("pid", "net", "ipc", "uts", "mnt")
    assert len(found) == len(names)
    for name, link in zip(names, found, strict=True):
        assert link != os.readlink(f"/proc/self/ns/{name}")
    assert int(count) <= 4


def limits(runtime: Runtime) -> None:
    resources = {
        "devices": [{"allow": False, "access": "rwm"}],
        "pids": {"limit": 17},
        "memory": {"limit": 48 << 20},
        "cpu": {"shares": 300},
    }
    with runtime.running(linux__resources=resources) as identity:
        found = {
            path.name: path.read_text().strip()
            for path in Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}/*")
            if path.name in ("pids.max", "memory.limit_in_bytes", "cpu.shares")
        }
        assert found == {"pids.max": "17", "memory.limit_in_bytes": str(48 << 20), "cpu.shares": "300"}
        runtime.expect("update", "--memory", str(64 << 20), identity)
        changed = next(iter(Path("/sys/fs/cgroup").glob(f"memory{runtime.parent}/{identity}/memory.limit_in_bytes")))
        assert changed.read_text().strip() == str(64 << 20)


def execute(runtime: Runtime) -> None:
    with runtime.running() as identity:
        assert runtime("exec", identity, "sh", "-c", "exit 5").returncode == 5
        done = runtime(
            "exec", "--env", "MORE=1", "--cwd", "/tmp", identity, "/bin/sh", "-c", "echo $MORE; pwd; /bin/hostname"
        )
        assert done.stdout.splitlines() == ["1", "/tmp", "conformance"], done.stderr
        done = runtime(
            "exec", identity, "sh", "-c", "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; ls /proc/1/cwd/bin/sh"
        )
        assert int(done.stdout.split()[1], 16) == 1 << 5 | 1 << 0, done.stderr
        pids = json.loads(runtime.expect("ps", "--format", "json", identity))
        assert pids == [runtime.state(identity)["pid"]]
        runtime.expect("kill", identity, "KILL")
        runtime.wait(identity, "stopped")
        runtime.refuses("exec", identity, "true")


def pause(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        assert runtime.state(identity)["status"] == "paused"
        runtime.expect("resume", identity)
        assert runtime.state(identity)["status"] == "running"


def force_delete(runtime: Runtime) -> None:
    with runtime.running() as identity:
        pid = runtime.state(identity)["pid"]
        runtime.expect("delete", "--force", identity)
        assert has_ended(pid)
        runtime.refuses("state", identity)


def delete_created(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle()
    runtime.expect("create", "--bundle", bundle, "--pid-file", f"{bundle}/pid", identity)
    assert int((runtime.home / identity / "pid").read_text()) == runtime.state(identity)["pid"]
    runtime.expect("delete", "--force", identity)
    runtime.refuses("state", identity)


def listing(runtime: Runtime) -> None:
    with runtime.running() as identity:
        assert identity in runtime.expect("list", "-q").split()
        entries = json.loads(runtime.expect("list", "--format", "json"))
        assert [entry["status"] for entry in entries if entry["id"] == identity] == ["running"]


def bad_configuration(runtime: Runtime) -> None:
    for changes in (
        {"linux__namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "mount"}, {"type": "nonsense"}]},
        {"process__cwd": ""},
        {"linux__sysctl": {"kernel.core_pattern": "|/bin/sh"}},
        {"linux__seccomp": {"defaultAction": "SCMP_ACT_NONSENSE"}},
    ):
        identity, bundle = runtime.bundle(**changes)
        runtime.refuses("create", "--bundle", bundle, identity)
        runtime.refuses("state", identity)
    identity, bundle = runtime.bundle()
    (runtime.home / identity / "config.json").write_text("{")
    runtime.refuses("create", "--bundle", bundle, identity)
    runtime.refuses("create", "--bundle", f"{bundle}-missing", identity)


CHECKS: dict[str, Callable[[Runtime], None]] = {
    check.__name__: check
    for check in (
        lifecycle,
        exit_status,
        missing_program,
        environment,
        user,
        devices,
        devices_without_a_mount,
        protected_paths,
        namespaces,
        limits,
        execute,
        pause,
        force_delete,
        delete_created,
        listing,
        bad_configuration,
    )
}
