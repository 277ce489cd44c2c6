"""orlop-runtime where its peers' suite does not reach: terminals, signals, descriptors, the sealed interpreter."""

from __future__ import annotations

import array
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))


from harness import PATIENCE, catches, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox")]


def read_until(fd: int, words: bytes, *, seconds: float = 10) -> bytes:
    data = b""
    deadline = time.monotonic() + seconds * PATIENCE
    while words not in data:
        if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"{words!r} did not come: {data!r}")
        try:
            chunk = os.read(fd, 4096)
        except OSError:
            chunk = b""
        if not chunk:
            raise AssertionError(f"{words!r} did not come before the end: {data!r}")
        data += chunk
    return data


def test_init_waits_in_a_sealed_interpreter(runtime):
    """threats.md A1: /proc/<pid>/exe of what enters a container cannot be written."""
    identity, bundle = runtime.bundle()
    runtime.expect("create", "--bundle", bundle, identity)
    pid = runtime.state(identity)["pid"]
    assert "python" in os.readlink(f"/proc/{pid}/exe") or "memfd" in os.readlink(f"/proc/{pid}/exe")
    with pytest.raises(OSError, match=r"Read-only file system|Text file busy|not permitted"):
        open(f"/proc/{pid}/exe", "wb")
    # nothing of the host is open in it: stdio, its fifo (O_PATH) and its sync socket
    links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) > 2}
    assert all(link.startswith("socket:") or link.endswith("/exec.fifo") for link in links), links
    runtime.expect("delete", "--force", identity)


def test_terminal_in_the_foreground(runtime):
    identity, bundle = runtime.bundle("sh", process__terminal=True)
    pid, master = pty.fork()
    if pid == 0:
        os.execv(
            runtime.command[0], [*runtime.command, "--root", f"{runtime.seen}/state", "run", "-b", bundle, identity]
        )
    try:
        os.write(master, b"stty size; tty; echo sum=$((40+2))\r")
        shown = read_until(master, b"sum=42")
        assert b"/dev/pts/0" in shown
        os.write(master, b"exit 6\r")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    finally:
        os.close(master)
    runtime.refuses("state", identity)


def test_console_socket(runtime):
    identity, bundle = runtime.bundle("sh", process__terminal=True)
    path = str(runtime.home / "console.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        runtime.expect("create", "--bundle", bundle, "--console-socket", path, identity)
        connection, _ = listener.accept()
        with connection:
            name, ancillary, *_ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    assert name
    (master,) = array.array("i", ancillary[0][2])
    try:
        runtime.expect("start", identity)
        os.write(master, b"echo sum=$((40+2))\r")
        read_until(master, b"sum=42")
    finally:
        os.close(master)
        runtime.expect("delete", "--force", identity)


def test_terminal_without_anybody_to_take_it(runtime):
    identity, bundle = runtime.bundle("sh", process__terminal=True)
    runtime.refuses("create", "-b", bundle, identity, words="cannot allocate tty if runc will detach without setting")
    runtime.refuses("create", "-b", bundle, "--console-socket", "/nonexistent", identity, words="console socket")
    runtime.refuses("state", identity)


def test_signals_go_to_the_program(runtime):
    identity, bundle = runtime.bundle("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    command = [*runtime.command, "--root", f"{runtime.seen}/state", "run", "-b", bundle, identity]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: runtime("state", identity).returncode == 0 and runtime.state(identity)["status"] == "running")
        wait_for(lambda: catches(runtime.state(identity)["pid"], signal.SIGTERM))
        process.terminate()
        assert process.wait(10 * PATIENCE) == 9
    finally:
        process.kill()
        process.wait()


def test_killed_by_a_signal(runtime):
    identity, bundle = runtime.bundle("sleep", "60")
    command = [*runtime.command, "--root", f"{runtime.seen}/state", "run", "-b", bundle, identity]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: runtime("state", identity).returncode == 0 and runtime.state(identity)["status"] == "running")
        runtime.expect("kill", identity, "KILL")
        assert process.wait(10 * PATIENCE) == 128 + signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_detached_run_outlives_the_command(runtime):
    identity, bundle = runtime.bundle("sleep", "60")
    runtime.expect("run", "--detach", "--pid-file", f"{runtime.seen}/pid", "--bundle", bundle, identity)
    state = runtime.state(identity)
    assert state["status"] == "running"
    assert int((runtime.home / "pid").read_text()) == state["pid"]
    runtime.expect("exec", "--detach", identity, "sleep", "50")
    assert len(json.loads(runtime.expect("ps", "-f", "json", identity))) == 2
    assert "sleep 50" in runtime.expect("ps", identity)
    runtime.expect("kill", "--all", identity, "KILL")
    runtime.wait(identity, "stopped")
    runtime.expect("delete", identity)


def test_preserved_descriptors(runtime):
    identity, bundle = runtime.bundle("sh", "-c", "cat <&3; ls /proc/self/fd | wc -w")
    reading, writing = os.pipe()
    os.write(writing, b"through\n")
    os.close(writing)
    command = [
        *runtime.command,
        "--root",
        f"{runtime.seen}/state",
        "run",
        "--preserve-fds",
        "1",
        "-b",
        bundle,
        identity,
    ]
    move = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
    done = subprocess.run(
        [sys.executable, "-c", move, str(reading), *command],
        pass_fds=[reading],
        capture_output=True,
        text=True,
        check=False,
        timeout=20 * PATIENCE,
    )
    os.close(reading)
    assert done.stdout.splitlines()[0] == "through", done.stderr
    runtime.refuses("run", "--preserve-fds", "200", "-b", bundle, identity, words="is not open")


def test_exec_variants(runtime):
    with runtime.running("sleep", "60") as identity:
        done = runtime("exec", "--user", "1000:50", identity, "id")
        assert "uid=1000(alice) gid=50(staff)" in done.stdout, done.stderr
        assert runtime("exec", "--user", "01x", identity, "id").returncode == 255
        document = runtime.home / "process.json"
        document.write_text(
            json.dumps({"args": ["sh", "-c", "echo $A; pwd"], "cwd": "/tmp", "env": ["A=7", "PATH=/bin"]})
        )
        assert runtime.expect("exec", "--process", str(document), identity).split() == ["7", "/tmp"]
        done = runtime("exec", identity, "nosuch")
        assert done.returncode == 255
        assert (
            'exec failed: unable to start container process: exec: \\"nosuch\\": executable file not found in $PATH'
            in done.stderr
        )
        runtime.expect("pause", identity)
        runtime.refuses("exec", identity, "true", words="cannot exec in a paused container")
        runtime.expect("resume", identity)
        assert runtime("exec", "--cgroup", "x", identity, "true").returncode == 255


def test_failed_create_leaves_nothing(runtime):
    identity, bundle = runtime.bundle(mounts=[{"destination": "/proc/self", "type": "tmpfs", "source": "x"}])
    runtime.refuses("create", "-b", bundle, identity)
    assert not (runtime.home / "state" / identity).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*{runtime.parent}/{identity}"))


def test_a_dead_create_can_be_deleted(runtime):
    """A directory that was claimed and has no state: the runtime was killed in between."""
    (runtime.home / "state").mkdir(exist_ok=True)
    (runtime.home / "state/half").mkdir()
    assert "half" not in runtime.expect("list", "-q")
    runtime.refuses("state", "half", words="container does not exist")
    runtime.expect("delete", "--force", "half")
    assert not (runtime.home / "state/half").exists()
