"""R1, R10, R11, R12, R51 of faults.md: the engine, the spawner and the shims may die at any moment."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from conftest import assert_nothing_left, settled_state
from harness import BIN, DOCKER, PATIENCE, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_kill_dash_nine_loses_nothing(own_engine) -> None:
    engine = own_engine
    engine.docker(
        "run",
        "-d",
        "--name",
        "ticker",
        "-p",
        "8090:80",
        "busybox",
        "sh",
        "-c",
        "echo hi >/tmp/index.html; httpd -p 80 -h /tmp; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.05; done",
    )
    engine.docker("run", "-d", "--name", "short", "busybox", "sh", "-c", "sleep 1; echo last; exit 42")
    engine.docker("create", "--name", "never", "busybox", "true")
    before, pid = engine.inspect("ticker"), engine.inspect("short")["State"]["Pid"]
    engine.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="the end of a container without an engine")
    time.sleep(1)
    engine.start()
    after = engine.inspect("ticker")
    assert after["State"]["Running"]
    for field in ("Pid", "StartedAt"):
        assert before["State"][field] == after["State"][field]
    assert before["NetworkSettings"]["IPAddress"] == after["NetworkSettings"]["IPAddress"]
    short = engine.inspect("short")["State"]
    assert (short["Status"], short["ExitCode"]) == ("exited", 42)
    assert engine.docker("logs", "short").stdout == "last\n"
    assert engine.inspect("never")["State"]["Status"] == "created"
    ticks = lambda: [int(line.split()[1]) for line in engine.docker("logs", "ticker").stdout.splitlines()]  # noqa: E731
    told = wait_for(lambda: len(found := ticks()) > 20 and found, what="ticks")
    assert told == list(range(len(told)))
    assert engine.docker("exec", "ticker", "echo", "still").stdout == "still\n"
    assert engine.in_network("curl", "-s", "-m", str(5 * PATIENCE), "http://127.0.0.1:8090/index.html").stdout == "hi\n"
    engine.docker("stop", "-t", "1", "ticker", timeout=6 * PATIENCE)
    assert engine.inspect("ticker")["State"]["ExitCode"] == 137


def test_a_stopped_engine_leaves_containers_running(own_engine) -> None:
    own_engine.docker("run", "-d", "--name", "con", "busybox", "sleep", "1000")
    pid = own_engine.inspect("con")["State"]["Pid"]
    assert own_engine.stop() == 0  # within the time that it has
    assert Path(f"/proc/{pid}").exists()
    own_engine.start()
    assert own_engine.inspect("con")["State"]["Pid"] == pid
    assert own_engine.docker("run", "--rm", "busybox", "echo", "next").stdout == "next\n"


def test_an_attached_session_survives_the_engine(own_engine) -> None:
    """The shim holds the client's socket (ADR 1). ``docker run`` itself gives up when its wait request breaks."""
    own_engine.docker("run", "-d", "--name", "talk", "busybox", "sleep", "1000")
    client = subprocess.Popen(
        [DOCKER, "exec", "-i", "talk", "cat"],
        env=own_engine.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        client.stdin.write(b"one\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"one\n"
        own_engine.kill()
        client.stdin.write(b"two\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"two\n"
        own_engine.start()
        client.stdin.write(b"three\n")
        client.stdin.close()
        assert client.stdout.readline() == b"three\n"
    finally:
        client.kill()
        client.wait()
        client.stdout.close()


def test_a_dead_spawner_is_replaced(own_engine) -> None:
    own_engine.docker("run", "-d", "--name", "con", "busybox", "sleep", "1000")
    pid = own_engine.inspect("con")["State"]["Pid"]
    old = own_engine.spawner()
    os.kill(old, signal.SIGKILL)
    wait_for(
        lambda: own_engine.docker("run", "--rm", "busybox", "echo", "again", check=False).stdout == "again\n", seconds=5
    )
    # a child of the old one may have been waiting for just this request
    wait_for(lambda: [pid for pid in own_engine.spawners() if pid != old], seconds=5)
    assert own_engine.inspect("con")["State"]["Pid"] == pid


def test_engine_and_shim_and_container_killed_together(own_engine) -> None:
    own_engine.docker("run", "-d", "--name", "con", "busybox", "sleep", "1000")
    pid = own_engine.inspect("con")["State"]["Pid"]
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    own_engine.kill()
    os.kill(shim, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    own_engine.start()
    state = own_engine.inspect("con")["State"]
    assert (state["Status"], state["ExitCode"]) in {("exited", 137), ("exited", 255)}
    own_engine.docker("start", "con")
    assert own_engine.inspect("con")["State"]["Running"]


def test_killed_before_a_restart_by_policy_was_recorded(own_engine) -> None:  # R3
    """The program of that start ends before the next one is made: there are never two."""
    own_engine.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sleep", "1000")
    first = own_engine.inspect("again")["State"]["Pid"]
    own_engine.kill()
    with contextlib.closing(sqlite3.connect(own_engine.data_root / "state.db", isolation_level=None)) as records:
        assert records.execute("UPDATE container SET status = 'restarting', pid = 0").rowcount == 1
    own_engine.start()
    second = wait_for(lambda: own_engine.inspect("again")["State"]["Pid"], what="the next start")
    assert second != first
    assert not Path(f"/proc/{first}").exists()


@pytest.mark.timeout(180)
def test_killed_in_the_middle_of_starts_nothing_is_half(own_engine) -> None:
    """R2, R3: kill the engine at arbitrary moments of `docker run`; every container is whole or absent."""
    engine = own_engine
    before = settled_state(engine)
    for round_ in range(8):
        client = subprocess.Popen(
            [DOCKER, "run", "-d", "--name", f"r{round_}", "busybox", "sleep", "1000"],
            env=engine.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.02 + round_ * 0.006)
        engine.kill()
        client.wait()
        engine.start()
        for name in engine.docker("ps", "-a", "--format", "{{.Names}}").stdout.split():
            state = engine.inspect(name)["State"]
            assert state["Status"] in {"created", "running", "exited"}
            if state["Status"] == "running":
                assert Path(f"/proc/{state['Pid']}").exists()
        engine.remove_containers()
    assert_nothing_left(engine, before, seconds=8, descriptors=8)


def test_a_second_engine_on_the_same_data_root_is_refused(own_engine, tmp_path) -> None:
    done = own_engine.in_network(
        BIN / "orlopd",
        "--data-root",
        own_engine.data_root,
        "--exec-root",
        tmp_path / "run",
        "--host",
        f"unix://{tmp_path}/s.sock",
        "--pidfile",
        tmp_path / "pid",
        check=False,
    )
    assert done.returncode != 0
    assert str(own_engine.data_root) in done.stderr
    assert "Traceback" not in done.stderr
    assert own_engine.docker("ps").returncode == 0


def test_restart_policy_and_back_off(own_engine) -> None:
    own_engine.docker("run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 3")
    wait_for(
        lambda: (
            own_engine.inspect("again")["RestartCount"] == 2
            and own_engine.inspect("again")["State"]["Status"] == "exited"
        ),
        seconds=10,
    )
    own_engine.docker("run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "1000")
    pid = own_engine.inspect("always")["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: (
            own_engine.inspect("always")["State"]["Running"] and own_engine.inspect("always")["State"]["Pid"] != pid
        ),
        seconds=10,
    )
    own_engine.docker("stop", "-t", "0", "always")
    time.sleep(0.5)
    assert own_engine.inspect("always")["State"]["Status"] == "exited"


@pytest.mark.timeout(180)
def test_many_clients_at_once(engine) -> None:
    """R30, R31 on a small scale: one winner for a name, and every start comes to its end."""
    codes = []

    def create() -> None:
        codes.append(engine.http("POST", "/containers/create?name=race", {"Image": "busybox"})[0])

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [201] + [409] * 19
    outputs = []

    def run(n: int) -> None:
        outputs.append(engine.docker("run", "--rm", "busybox", "echo", str(n)).stdout)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs, key=int) == [f"{n}\n" for n in range(16)]
