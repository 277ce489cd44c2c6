"""What every OCI runtime's command line does beyond the life of a container: streams, terminals, limits, listings.

As in ``runtime.py`` a check that runc and crun fail is wrong. Where the two differ only what both do is asserted;
:data:`DIFFERS` names what a peer does not have, or does otherwise than runc and orlop-runtime.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime import Runtime

from harness import wait_for

TTY_MAJOR = 136
DIFFERS = {
    "crun": {
        # no such command or flag
        *("events", "out_of_memory_event", "exec_in_paused", "exec_groups", "update_from_stdin"),
        # its log has other levels
        "debug",
        # a frozen container stays so, and resuming a running one is no error
        *("kill_paused", "pause_refusals"),
        # needs libcriu, which Debian's peers do not have; a failed restore keeps the name
        *("checkpoint_restore", "checkpoint_refusals"),
        # create does not look whether the program can be executed by the container's user
        "forbidden_program",
    },
}


def run_detached(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle()
    runtime.expect("run", "--detach", "--bundle", bundle, "--pid-file", f"{bundle}/pid", identity)
    assert runtime.state(identity)["status"] == "running"
    assert int((runtime.home / identity / "pid").read_text()) == runtime.state(identity)["pid"]
    runtime.expect("delete", "--force", identity)


def run_keeps(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("sh", "-c", "exit 3")
    assert runtime("run", "--keep", "--bundle", bundle, identity).returncode == 3
    assert runtime.state(identity)["status"] == "stopped"
    runtime.expect("delete", identity)
    identity, bundle = runtime.bundle("true")
    runtime.expect("run", "--bundle", bundle, identity)
    runtime.refuses("state", identity)


def standard_streams(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("sh", "-c", "cat; echo to stderr >&2")
    (runtime.home / "input").write_text("from stdin\n")
    with (runtime.home / "input").open() as stdin:
        done = runtime("run", "--bundle", bundle, identity, stdin=stdin)
    assert (done.stdout, done.stderr) == ("from stdin\n", "to stderr\n")


def preserved_descriptors(runtime: Runtime) -> None:
    reader, writer = os.pipe()
    script = "echo through >&3; ls /proc/self/fd | wc -l"
    identity, bundle = runtime.bundle("sh", "-c", script)
    with fd_three(writer):
        done = runtime("run", "--preserve-fds", "1", "--bundle", bundle, identity, pass_fds=(3,))
    assert done.returncode == 0, done.stderr
    os.close(writer)
    assert os.read(reader, 100) == b"through\n"
    os.close(reader)


def listening_sockets(runtime: Runtime) -> None:
    """LISTEN_FDS of sd_listen_fds(3), which is for the process that LISTEN_PID names: passed on to the program."""
    reader, writer = os.pipe()
    identity, bundle = runtime.bundle("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID >&3")
    with fd_three(writer):
        runtime.expect("run", "--bundle", bundle, identity, pass_fds=(3,), setting="LISTEN_PID=$$ LISTEN_FDS=1")
    os.close(writer)
    count, *pid = os.read(reader, 100).split()
    assert count == b"1"
    assert pid in ([b"1"], [])  # crun does not tell
    os.close(reader)


@contextlib.contextmanager
def fd_three(fd: int) -> Iterator[None]:
    """Have ``fd`` be number 3, which is the first that a runtime passes on."""
    if fd == 3:
        os.set_inheritable(3, True)
        yield
        return
    try:
        saved = os.dup(3)
    except OSError:
        saved = -1
    os.dup2(fd, 3, inheritable=True)
    try:
        yield
    finally:
        os.close(3)
        if saved >= 0:
            os.dup2(saved, 3, inheritable=False)
            os.close(saved)


class ConsoleSocket:
    """Receives the master end of a terminal, as containerd's shim and conmon do."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.seen = f"{runtime.seen}/{name}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(runtime.home / name))
        self._listener.listen(1)
        self._listener.settimeout(10)
        self.master = -1
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
                for _, _, data in ancillary:
                    self.master = array.array("i", data)[0]

    def read(self, words: bytes, *, seconds: float = 5) -> bytes:
        """Return what the terminal shows up to and with ``words``."""
        self._thread.join(10)
        assert self.master >= 0, "no terminal came"
        seen = b""
        deadline = time.monotonic() + seconds
        os.set_blocking(self.master, False)
        while words not in seen:
            assert time.monotonic() < deadline, f"{words!r} did not come: {seen!r}"
            with contextlib.suppress(BlockingIOError, OSError):
                seen += os.read(self.master, 4096)
            time.sleep(0.01)
        return seen

    def close(self) -> None:
        self._listener.close()
        self._thread.join(11)
        if self.master >= 0:
            os.close(self.master)


def console_socket(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle(
        *("sh", "-c", "tty; test -c /dev/console && echo console; read line; echo got $line; sleep 60"),
        process__terminal=True,
        process__consoleSize={"height": 33, "width": 77},
    )
    console = ConsoleSocket(runtime, "a.sock")
    try:
        runtime.expect("create", "--bundle", bundle, "--console-socket", console.seen, identity)
        runtime.expect("start", identity)
        shown = console.read(b"console")
        assert b"/dev/pts/0" in shown or b"/dev/console" in shown
        os.write(console.master, b"typed\n")
        console.read(b"got typed")
    finally:
        console.close()
        runtime("delete", "--force", identity)


def exec_console_socket(runtime: Runtime) -> None:
    with runtime.running() as identity:
        console = ConsoleSocket(runtime, "b.sock")
        try:
            runtime.expect(
                *("exec", "--detach", "--tty", "--console-socket", console.seen, identity),
                *("sh", "-c", "tty; sleep 1"),
            )
            console.read(b"/dev/pts/")
        finally:
            console.close()
        runtime.refuses("exec", "--detach", "--tty", identity, "tty")


def console_refusals(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("tty", process__terminal=True)
    runtime.refuses("create", "--bundle", bundle, identity)
    runtime.refuses("create", "--bundle", bundle, "--console-socket", "/nonexistent/socket", identity)
    runtime.refuses("state", identity)


def exec_process(runtime: Runtime) -> None:
    process = {
        "args": ["sh", "-c", "id -u; id -g; pwd; echo $MORE; grep -c 0000000000000020 /proc/self/status; exit 6"],
        "cwd": "/tmp",
        "env": ["PATH=/bin", "MORE=more"],
        "user": {"uid": 7, "gid": 8},
        "capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    }
    (runtime.home / "process.json").write_text(json.dumps(process))
    with runtime.running() as identity:
        done = runtime("exec", "--process", f"{runtime.seen}/process.json", identity)
        assert done.returncode == 6, done.stderr
        assert done.stdout.split()[:4] == ["7", "8", "/tmp", "more"]
        runtime.refuses("exec", "--process", f"{runtime.seen}/missing.json", identity)


def exec_flags(runtime: Runtime) -> None:
    with runtime.running() as identity:
        # crun's environment is what the flags say and nothing else
        script = "PATH=/bin; id -u; id -g; pwd; echo $ONE$TWO; grep -E '^(NoNewPrivs|CapBnd)' /proc/self/status"
        out = runtime.expect(
            *("exec", "--user", "5:6", "--cwd", "/tmp", "-e", "ONE=1", "-e", "TWO=2", "--no-new-privs"),
            *("--cap", "CAP_NET_RAW", identity, "/bin/sh", "-c", script),
        )
        words = out.split()
        assert words[:4] == ["5", "6", "/tmp", "12"]
        assert dict(zip(words[4::2], words[5::2], strict=True))["NoNewPrivs:"] == "1"
        bounding = int(dict(zip(words[4::2], words[5::2], strict=True))["CapBnd:"], 16)
        assert bounding & 1 << 13, "CAP_NET_RAW was to be added"
        # flags after the command are the command's
        assert runtime.expect("exec", identity, "echo", "-t", "--user").split() == ["-t", "--user"]
        runtime.refuses("exec", "--user", "nobody", identity, "true")
        runtime.refuses("exec", identity)


def exec_groups(runtime: Runtime) -> None:
    with runtime.running() as identity:
        out = runtime.expect("exec", "-g", "50", "-g", "60", identity, "id", "-G")
        assert {"50", "60"} <= set(out.split())


def exec_detached(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("exec", "--detach", "--pid-file", f"{runtime.seen}/exec.pid", identity, "sleep", "61")
        pid = int((runtime.home / "exec.pid").read_text())
        assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
        pids = json.loads(runtime.expect("ps", "--format", "json", identity))
        assert sorted(pids) == sorted([pid, runtime.state(identity)["pid"]])
        runtime.expect("kill", "--all", identity, "KILL")
        runtime.wait(identity, "stopped")
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def exec_in_paused(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        runtime.refuses("exec", identity, "true", words="paused")
        pending = subprocess.Popen(runtime.line("exec", "--ignore-paused", identity, "true"), stdin=subprocess.DEVNULL)
        time.sleep(0.3)
        assert pending.poll() is None, "it ran in a paused container"
        runtime.expect("resume", identity)
        assert pending.wait(10) == 0


def signals(runtime: Runtime) -> None:
    program = "trap 'echo usr1 > /tmp/seen' USR1; trap 'exit 4' TERM; echo up > /tmp/up; while :; do sleep 0.05; done"
    with runtime.running("sh", "-c", program) as identity:
        wait_for(lambda: runtime("exec", identity, "cat", "/tmp/up").returncode == 0, what="the program")
        for name in ("USR1", "SIGUSR1", str(int(signal.SIGUSR1))):
            runtime.expect("exec", identity, "rm", "-f", "/tmp/seen")
            runtime.expect("kill", identity, name)
            wait_for(lambda: runtime("exec", identity, "cat", "/tmp/seen").stdout == "usr1\n", what=name)
        runtime.refuses("kill", identity, "NONSENSE")
        runtime.expect("kill", identity)
        runtime.wait(identity, "stopped")


def kill_paused(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        runtime.expect("kill", identity, "KILL")
        runtime.wait(identity, "stopped")


def delete_paused(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        runtime.expect("delete", "--force", identity)
        runtime.refuses("state", identity)


def pause_refusals(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.refuses("resume", identity)
        runtime.expect("pause", identity)
        runtime.refuses("pause", identity)
        runtime.refuses("delete", identity)
        runtime.refuses("start", identity)


def update(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("update", "--cpu-share", "300", "--pids-limit", "20", identity)
        runtime.expect("update", "--cpu-period", "50000", "--cpu-quota", "20000", "--cpuset-cpus", "0", identity)
        runtime.expect("update", "--memory", str(64 << 20), "--memory-reservation", str(32 << 20), identity)
        found = {
            name: limit(runtime, identity, name)
            for name in (
                *("cpu.shares", "pids.max", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpuset.cpus"),
                *("memory.limit_in_bytes", "memory.soft_limit_in_bytes"),
            )
        }
        assert found == {
            "cpu.shares": "300",
            "pids.max": "20",
            "cpu.cfs_period_us": "50000",
            "cpu.cfs_quota_us": "20000",
            "cpuset.cpus": "0",
            "memory.limit_in_bytes": str(64 << 20),
            "memory.soft_limit_in_bytes": str(32 << 20),
        }
        runtime.expect("update", "--memory", str(96 << 20), identity)
        assert limit(runtime, identity, "memory.limit_in_bytes") == str(96 << 20)
        runtime.refuses("update", "--memory", "many", identity)
        runtime.refuses("update", "--cpuset-cpus", "4096", identity)
        assert limit(runtime, identity, "cpuset.cpus") == "0"
        runtime.expect("kill", identity, "KILL")
        runtime.wait(identity, "stopped")


def limit(runtime: Runtime, identity: str, name: str) -> str:
    """Return what the kernel has."""
    return next(Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}/{name}")).read_text().strip()


def update_from_file(runtime: Runtime) -> None:
    resources = {"memory": {"limit": 80 << 20}, "cpu": {"shares": 500}, "pids": {"limit": 33}}
    (runtime.home / "resources.json").write_text(json.dumps(resources))
    with runtime.running() as identity:
        runtime.expect("update", "--resources", f"{runtime.seen}/resources.json", identity)
        assert limit(runtime, identity, "memory.limit_in_bytes") == str(80 << 20)
        assert limit(runtime, identity, "cpu.shares") == "500"
        assert limit(runtime, identity, "pids.max") == "33"
        runtime.refuses("update", "--resources", f"{runtime.seen}/missing.json", identity)


def update_from_stdin(runtime: Runtime) -> None:
    (runtime.home / "resources.json").write_text('{"cpu": {"shares": 700}}')
    with runtime.running() as identity, (runtime.home / "resources.json").open() as stdin:
        runtime.expect("update", "-r", "-", identity, stdin=stdin)
        assert limit(runtime, identity, "cpu.shares") == "700"


def ps(runtime: Runtime) -> None:
    with runtime.running("sh", "-c", "sleep 62 & sleep 63 & wait") as identity:
        wait_for(lambda: len(json.loads(runtime.expect("ps", "--format", "json", identity))) == 3, what="3 processes")
        pids = json.loads(runtime.expect("ps", "-f", "json", identity))
        table = runtime.expect("ps", identity)
        assert "PID" in table.splitlines()[0]
        assert all(str(pid) in table for pid in pids)
        runtime.refuses("ps", "--format", "yaml", identity)


def listing_formats(runtime: Runtime) -> None:
    with runtime.running() as identity:
        state = runtime.state(identity)
        table = runtime.expect("list").splitlines()
        assert [word.upper() for word in table[0].split()][:3] == [*("ID", "PID"), "STATUS"] or "NAME" in table[0]
        row = next(line.split() for line in table if identity in line)
        assert row[:3] == [identity, str(state["pid"]), "running"]
        entries = json.loads(runtime.expect("list", "-f", "json"))
        entry = next(entry for entry in entries if entry["id"] == identity)
        for key in ("id", "pid", "status", "bundle"):
            assert entry[key] == state[key]
        assert "owner" in entry
        assert "created" in entry


def state_document(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle(annotations={"com.example.key": "value"})
    runtime.expect("create", "--bundle", bundle, identity)
    state = runtime.state(identity)
    assert state["annotations"]["com.example.key"] == "value"
    assert state["rootfs"] == f"{runtime.seen}/rootfs"
    assert state["created"].endswith("Z")
    runtime.expect("start", identity)
    runtime.expect("kill", identity, "KILL")
    runtime.wait(identity, "stopped")
    assert runtime.state(identity).get("pid", 0) == 0
    runtime.expect("delete", identity)


def events(runtime: Runtime) -> None:
    with runtime.running("sh", "-c", "while :; do sleep 0.01; done") as identity:
        event = json.loads(runtime.expect("events", "--stats", identity))
        assert (event["type"], event["id"]) == ("stats", identity)
        data = event["data"]
        assert set(data) >= {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"}
        assert data["cpu"]["usage"]["total"] > 0
        assert set(data["memory"]) >= {"usage", "swap", "raw"}
        assert data["memory"]["usage"]["usage"] > 0
        assert data["pids"]["current"] >= 1
        with (runtime.home / "events").open("w") as output:
            follow = subprocess.Popen(
                runtime.line("events", "--interval", "100ms", identity), stdin=subprocess.DEVNULL, stdout=output
            )
        wait_for(lambda: (runtime.home / "events").read_text().count("\n") >= 3, what="three events")
        runtime.expect("delete", "--force", identity)
        follow.wait(10)
        lines = (runtime.home / "events").read_text().splitlines()
        assert {json.loads(line)["type"] for line in lines[:3]} == {"stats"}
    runtime.refuses("events", "--stats", identity)
    runtime.refuses("events", "--interval", "0s", identity)


def out_of_memory_event(runtime: Runtime) -> None:
    resources = {"memory": {"limit": 8 << 20, "swap": 8 << 20}}
    identity, bundle = runtime.bundle("sh", "-c", "sleep 0.7; tail /dev/zero", linux__resources=resources)
    runtime.expect("create", "--bundle", bundle, identity)
    with (runtime.home / "events").open("w") as output:
        follow = subprocess.Popen(
            runtime.line("events", "--interval", "1m", identity), stdin=subprocess.DEVNULL, stdout=output
        )
    time.sleep(0.3)
    runtime.expect("start", identity)
    try:
        wait_for(lambda: '"oom"' in (runtime.home / "events").read_text(), what="the event")
    finally:
        runtime("delete", "--force", identity)
        follow.wait(10)


def specification(runtime: Runtime) -> None:
    directory = runtime.home / "spec"
    for flags in ((), ("--rootless",)):
        directory.mkdir()
        runtime.expect("spec", *flags, "--bundle", f"{runtime.seen}/spec")
        config = json.loads((directory / "config.json").read_text())
        kinds = {namespace["type"] for namespace in config["linux"]["namespaces"]}
        assert kinds >= {"pid", "ipc", "uts", "mount"}
        assert ("user" in kinds) == bool(flags)
        assert config["process"]["args"] == ["sh"]
        runtime.refuses("spec", *flags, "--bundle", f"{runtime.seen}/spec")
        if not flags:
            _run_specification(runtime, config)
        (directory / "config.json").unlink()
        directory.rmdir()


def _run_specification(runtime: Runtime, config: dict[str, Any]) -> None:
    """A specification as the runtime writes it is one that it runs."""
    identity, bundle = runtime.bundle()
    config["process"].update(terminal=False, args=["sh", "-c", "cat /proc/self/mountinfo"])
    config["root"]["path"] = f"{runtime.seen}/rootfs"
    config["linux"]["cgroupsPath"] = f"{runtime.parent}/{identity}"
    (runtime.home / identity / "config.json").write_text(json.dumps(config))
    for directory in ("sys", "dev", "proc"):
        (runtime.home / "rootfs" / directory).mkdir(exist_ok=True)
    mounts = {line.split()[4]: line.split()[5] for line in runtime.expect("run", "-b", bundle, identity).splitlines()}
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"} <= set(mounts), set(mounts)
    assert mounts["/proc/sys"].startswith("ro")
    assert mounts["/"].startswith("ro")


def features(runtime: Runtime) -> None:
    document = json.loads(runtime.expect("features"))
    assert document["ociVersionMin"].startswith("1.")
    assert document["ociVersionMax"].startswith("1.")
    assert set(document["hooks"]) >= {"prestart", "createRuntime", "createContainer", "startContainer"}
    assert {"bind", "ro", "rprivate"} <= set(document["mountOptions"])
    linux = document["linux"]
    assert set(linux["namespaces"]) >= {"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}
    assert "CAP_SYS_ADMIN" in linux["capabilities"]
    assert linux["cgroup"]["v1"] is True
    assert linux["cgroup"]["v2"] is True
    assert linux["seccomp"]["enabled"] is True
    assert {"SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"} <= set(linux["seccomp"]["actions"])


def logs(runtime: Runtime) -> None:
    log = runtime.home / "log.json"
    done = runtime("--log", f"{runtime.seen}/log.json", "--log-format", "json", "state", "none")
    assert done.returncode != 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["level"] for entry in entries][-1] == "error"
    assert entries[-1]["msg"]
    assert entries[-1]["time"].startswith("20")
    identity, bundle = runtime.bundle("/no/such")
    runtime("--log", f"{runtime.seen}/log.json", "--log-format=json", "create", "--bundle", bundle, identity)
    words = [json.loads(line)["msg"] for line in log.read_text().splitlines()]
    assert any("no such file or directory" in text.lower() for text in words)
    log.unlink()


def debug(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("true")
    assert "level=debug" in runtime("--debug", "run", "--bundle", bundle, identity).stderr


def errors(runtime: Runtime) -> None:
    """One line, and a status other than 0."""
    for line in (
        *(("start", "none"), ("kill", "none", "TERM"), ("delete", "none"), ("pause", "none"), ("resume", "none")),
        *(("ps", "none"), ("update", "--pids-limit", "5", "none"), ("exec", "none", "true"), ("state", "none")),
        *(("start",), ("state",), ("kill",), ("delete",), ("nonsense",), ("state", "--nonsense", "none")),
        *(("create", "../escape"), ("run", "--bundle", "/nonexistent", "none")),
    ):
        done = runtime(*line)
        assert done.returncode != 0, line
        assert done.stderr.strip(), line
    runtime.expect("list")
    runtime.expect("--version")


def forbidden_program(runtime: Runtime) -> None:
    """What the container's user may not execute is told by create, not by a container that ends at once."""
    program = runtime.home / "rootfs/forbidden"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    identity, bundle = runtime.bundle("/forbidden", process__user={"uid": 1000, "gid": 1000}, process__capabilities={})
    runtime.refuses("create", "--bundle", bundle, identity)
    runtime.refuses("state", identity)
    program.unlink()


def checkpoint_restore(runtime: Runtime) -> None:
    """The restored program goes on where it was: with its memory and its tmpfs."""
    program = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.01; done"
    identity, bundle = runtime.bundle("sh", "-c", program)
    reader, writer = os.pipe()  # runc's containers cannot be written down with a file of the host open
    create = runtime.line("create", "--bundle", bundle, identity)
    assert subprocess.run(create, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=False).returncode == 0
    runtime.expect("start", identity)
    wait_for(lambda: count(runtime, identity) > 60, what="the program at work")
    before = count(runtime, identity)
    runtime.expect("checkpoint", "--leave-running", "--image-path", f"{runtime.seen}/first", identity, timeout=60)
    assert runtime.state(identity)["status"] == "running"
    runtime.expect("checkpoint", "--image-path", f"{runtime.seen}/images", identity, timeout=60)
    assert not runtime.state(identity)["pid"] if runtime("state", identity).returncode == 0 else True
    runtime("delete", "--force", identity)
    flags = ("--detach", "--image-path", f"{runtime.seen}/images", "--pid-file", f"{runtime.seen}/restored.pid")
    restore = runtime.line("restore", *flags, "--bundle", bundle, identity)
    assert subprocess.run(restore, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=False).returncode == 0
    os.close(writer)
    try:
        state = runtime.state(identity)
        assert state["status"] == "running"
        assert state["pid"] == int((runtime.home / "restored.pid").read_text())
        after = count(runtime, identity)
        assert after >= before
        wait_for(lambda: count(runtime, identity) > after, what="the restored program at work")
        procs = next(Path("/sys/fs/cgroup").glob(f"memory{runtime.parent}/{identity}/cgroup.procs"))
        assert str(state["pid"]) in procs.read_text().split()
    finally:
        runtime("delete", "--force", identity)
    os.close(reader)
    runtime.refuses("state", identity)


def count(runtime: Runtime, identity: str) -> int:
    """Return how far the program is."""
    return int(runtime("exec", identity, "cat", "/tmp/count").stdout or 0)


def checkpoint_refusals(runtime: Runtime) -> None:
    runtime.refuses("checkpoint", "none")
    identity, bundle = runtime.bundle()
    runtime.refuses("restore", "--image-path", f"{runtime.seen}/nonexistent", "--bundle", bundle, identity)
    runtime.refuses("state", identity)
    runtime.expect("create", "--bundle", bundle, identity)
    runtime.refuses("restore", "--image-path", runtime.seen, "--bundle", bundle, identity)
    runtime.refuses("checkpoint", "--image-path", f"{runtime.seen}/refused", identity)
    runtime.expect("delete", "--force", identity)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}"))


NEED_CRIU = {"checkpoint_restore"}
COMMANDS: dict[str, Callable[[Runtime], None]] = {
    check.__name__: check
    for check in (
        *(run_detached, run_keeps, standard_streams, preserved_descriptors, listening_sockets),
        *(console_socket, exec_console_socket, console_refusals),
        *(exec_process, exec_flags, exec_groups, exec_detached, exec_in_paused),
        *(signals, kill_paused, delete_paused, pause_refusals),
        *(update, update_from_file, update_from_stdin),
        *(ps, listing_formats, state_document, events, out_of_memory_event),
        *(checkpoint_restore, checkpoint_refusals),
        *(specification, features, logs, debug, errors, forbidden_program),
    )
}
