"""Checks of what a container's processes get from the command line: streams, descriptors, terminals, exec's flags."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from runtime import Runtime

from harness import PATIENCE, has_ended


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
        self._listener.settimeout(10 * PATIENCE)
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
        self._thread.join(10 * PATIENCE)
        assert self.master >= 0, "no terminal came"
        seen = b""
        deadline = time.monotonic() + seconds * PATIENCE
        os.set_blocking(self.master, False)
        while words not in seen:
            assert time.monotonic() < deadline, f"{words!r} did not come: {seen!r}"
            with contextlib.suppress(BlockingIOError, OSError):
                seen += os.read(self.master, 4096)
            time.sleep(0.01)
        return seen

    def close(self) -> None:
        self._listener.close()
        self._thread.join()  # it ends by its own time-out
        if self.master >= 0:
            os.close(self.master)


def console_socket(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle(
        *("sh", "-c", "tty; test -c /dev/console && echo console; read line; echo got $line; sleep 600"),
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


def exec_process_that_says_little(runtime: Runtime) -> None:
    """What a document leaves out of what confines a process is the container's."""
    script = "grep -E '^Cap(Eff|Bnd)' /proc/self/status"
    process = {"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    (runtime.home / "little.json").write_text(json.dumps(process))
    with runtime.running() as identity:
        shown = runtime.expect("exec", "--process", f"{runtime.seen}/little.json", identity)
        assert shown == f"CapEff:\t{1 << 5 | 1:016x}\nCapBnd:\t{1 << 5 | 1:016x}\n"


def exec_has_the_score(runtime: Runtime) -> None:
    """An exec goes before what else the host has when memory is short, as the container does."""
    process = {
        "args": ["cat", "/proc/self/oom_score_adj"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
    }
    (runtime.home / "score.json").write_text(json.dumps(process))
    with runtime.running(process__oomScoreAdj=321) as identity:
        assert runtime.expect("exec", identity, "cat", "/proc/self/oom_score_adj") == "321\n"
        assert runtime.expect("exec", "--process", f"{runtime.seen}/score.json", identity) == "321\n"


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
        assert has_ended(pid)


def failed_exec_is_over(runtime: Runtime) -> None:
    """What could not be handed over does not run on."""
    sleep = ("sh", "-c", "trap '' HUP TERM; sleep 63")
    with runtime.running() as identity:
        runtime.refuses("exec", "--detach", "--pid-file", f"{runtime.seen}/no/such/pid", identity, *sleep)
        runtime.refuses("exec", "-d", "-t", "--console-socket", f"{runtime.seen}/no.sock", identity, *sleep)
        assert json.loads(runtime.expect("ps", "--format", "json", identity)) == [runtime.state(identity)["pid"]]


def exec_sub_cgroups(runtime: Runtime) -> None:
    """A path for every controller, and one for some; cgroup v1."""

    def cgroups(pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}

    def executed(*flags: str) -> dict[str, str]:
        runtime.expect("exec", *flags, "--detach", "--pid-file", f"{runtime.seen}/sub.pid", identity, "sleep", "62")
        return cgroups(int((runtime.home / "sub.pid").read_text()))

    with runtime.running() as identity:
        own = cgroups(runtime.state(identity)["pid"])
        made = [Path("/sys/fs/cgroup", name, own[name].lstrip("/"), "below") for name in ("pids", "memory")]
        for path in made:
            path.mkdir()
        got = executed("--cgroup", "pids,memory:below")
        assert (got["pids"], got["memory"]) == (f"{own['pids']}/below", f"{own['memory']}/below")
        assert got["freezer"] == own["freezer"]
        got = executed("--cgroup", "pids:below")
        assert (got["pids"], got["memory"]) == (f"{own['pids']}/below", own["memory"])
        for flags in (
            ["--cgroup", "nosuch:below"],
            ["--cgroup", ":below"],
            ["--cgroup", "below", "--cgroup", "pids:below"],
            ["--cgroup", "pids:missing"],
        ):
            runtime.refuses("exec", *flags, identity, "true")
        runtime.expect("kill", "--all", identity, "KILL")
        runtime.wait(identity, "stopped")


def exec_in_paused(runtime: Runtime) -> None:
    with runtime.running() as identity:
        runtime.expect("pause", identity)
        runtime.refuses("exec", identity, "true", words="paused")
        pending = subprocess.Popen(runtime.line("exec", "--ignore-paused", identity, "true"), stdin=subprocess.DEVNULL)
        time.sleep(0.3)
        assert pending.poll() is None, "it ran in a paused container"
        runtime.expect("resume", identity)
        assert pending.wait(10 * PATIENCE) == 0


PROCESSES = (
    *(run_detached, run_keeps, standard_streams, preserved_descriptors, listening_sockets),
    *(console_socket, exec_console_socket, console_refusals),
    *(
        exec_process,
        exec_process_that_says_little,
        exec_has_the_score,
        exec_flags,
        exec_groups,
        exec_detached,
        failed_exec_is_over,
        exec_sub_cgroups,
        exec_in_paused,
    ),
)
