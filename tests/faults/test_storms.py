"""R10, R19, R21, R25, R31, R32, R50 of faults.md on a small scale: many requests, few descriptors, lost records."""

import collections
import contextlib
import http.client
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from conftest import settled_state
from harness import Engine, wait_for
from host_state import HostState

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


class Kept:
    """One kept connection to an engine."""

    def __init__(self, engine: Engine) -> None:
        self._connection = http.client.HTTPConnection("localhost")
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(40)
        sock.connect(str(engine.socket))
        self._connection.sock = sock

    def __call__(self, method: str, path: str, body=None):
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {} if data is None else {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else {}

    def close(self) -> None:
        self._connection.close()


def require_settled(engine: Engine, before: HostState, *, descriptors: int = 4) -> None:
    differences: dict = {}

    def settled() -> bool:
        differences.clear()
        differences.update(before.differences(HostState.of(engine), descriptors=descriptors))
        return not differences

    try:
        wait_for(settled, seconds=10)
    except TimeoutError:
        pytest.fail(f"left behind: {differences}")


def resident(pid: int) -> int:
    """Return kilobytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


@pytest.mark.timeout(120)
def test_cycles_leave_nothing_behind(own_engine) -> None:
    """R50: memory, descriptors, processes and rules return to where they were."""
    engine = own_engine
    call = Kept(engine)

    def cycle() -> None:
        status, made = call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]})
        assert status == 201
        path = f"/containers/{made['Id']}"
        assert call("POST", f"{path}/start")[0] == 204
        assert call("POST", f"{path}/wait")[1]["StatusCode"] == 0
        assert call("DELETE", path)[0] == 204

    for _ in range(20):
        cycle()
    before = settled_state(engine)
    memory = resident(engine.process.pid)
    for _ in range(60):
        cycle()
    require_settled(engine, before)
    assert resident(engine.process.pid) - memory < 1500
    call.close()


@pytest.mark.timeout(120)
def test_a_storm_on_one_container(own_engine) -> None:
    """R32: every answer is one that Docker gives, none takes long, and the container can be used and removed after."""
    engine = own_engine
    before = settled_state(engine)
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"]}
    until = time.monotonic() + 5
    strange: collections.Counter = collections.Counter()
    slowest = [0.0]

    def storm(seed: int) -> None:
        choose, call = random.Random(seed), Kept(engine)
        while time.monotonic() < until:
            what = choose.choice(("start", "stop", "kill", "restart", "pause", "unpause", "exec", "rm", "create"))
            began = time.monotonic()
            if what == "create":
                status, text = call("POST", "/containers/create?name=storm", body)
            elif what == "rm":
                status, text = call("DELETE", f"/containers/storm?force={choose.randrange(2)}")
            elif what == "exec":
                status, text = call("POST", "/containers/storm/exec", {"Cmd": ["true"]})
                if status == 201:
                    status, text = call("POST", f"/exec/{text['Id']}/start", {"Detach": True})
            else:
                status, text = call("POST", f"/containers/storm/{what}?t=0")
            slowest[0] = max(slowest[0], time.monotonic() - began)
            # 503: the program of an exec can end with its container at any moment
            if status >= 500 and (what, status) != ("exec", 503):
                strange[what, status, str(text)[:200]] += 1
        call.close()

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not strange
    assert slowest[0] < 5
    engine.http("POST", "/containers/create?name=storm", body)
    assert engine.http("DELETE", "/containers/storm?force=1")[0] == 204
    require_settled(engine, before)


def test_out_of_descriptors(own_engine) -> None:
    """R19: the engine waits without being busy or verbose, and goes on when there are descriptors again."""
    pid = own_engine.process.pid
    before, logged = resource.prlimit(pid, resource.RLIMIT_NOFILE), len(own_engine.log_text())
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 10, before[1]))
    clients = []
    for _ in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(own_engine.socket))
        clients.append(client)
    time.sleep(0.3)
    began = cpu_ticks(pid)
    time.sleep(1.5)
    assert cpu_ticks(pid) - began < 20
    assert len(own_engine.log_text()) - logged < 20_000
    for client in clients:
        client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wait_for(lambda: own_engine.http("GET", "/_ping", timeout=5)[0] == 200, seconds=5)
    assert own_engine.docker("run", "--rm", "busybox", "echo", "on").stdout == "on\n"


def cpu_ticks(pid: int) -> int:
    """Return hundredths of a second."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_trees_are_removed_although_the_spawner_died(own_engine) -> None:
    before = settled_state(own_engine)
    ids = [own_engine.docker("create", "busybox").stdout.strip() for _ in range(4)]
    os.kill(own_engine.spawner(), signal.SIGKILL)
    for name in ids:
        assert own_engine.http("DELETE", f"/containers/{name}")[0] == 204
    require_settled(own_engine, before)


def test_silent_clients_do_not_hurt_others(engine) -> None:
    """R21: idle connections, half requests and events that nobody reads."""
    clients = []
    for number in range(150):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(engine.socket))
        client.send((b"", b"GET /inf", b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")[number % 3])
        clients.append(client)
    memory, times = resident(engine.process.pid), []
    for _ in range(50):
        began = time.monotonic()
        assert engine.http("POST", "/volumes/create", {"Name": "silent"})[0] == 201
        assert engine.http("DELETE", "/volumes/silent")[0] == 204
        times.append(time.monotonic() - began)
    assert sorted(times)[25] < 0.1
    assert resident(engine.process.pid) - memory < 10_000
    for client in clients:
        client.close()


def test_waiting_clients_that_leave_are_forgotten(engine) -> None:
    """R21: `docker run -d` asks for the end of the container, and leaves."""
    engine.docker("run", "-d", "--name", "con", "busybox", "sleep", "1000")
    directory = f"/proc/{engine.process.pid}/fd"
    before = len(os.listdir(directory))
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(engine.socket))
        client.send(b"POST /containers/con/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.close()
    # fewer than the clients: the engine may have refilled its pools meanwhile
    wait_for(lambda: len(os.listdir(directory)) < before + 10, what="end of the waiting requests")


@pytest.mark.parametrize("damage", ["half", "garbage", "missing", "empty", "no records"])
def test_damaged_records(own_engine, damage) -> None:
    """R25: the engine starts, says so, keeps what it can, and works."""
    engine = own_engine
    engine.docker("run", "-d", "--name", "con", "busybox", "sleep", "1000")
    pid = engine.inspect("con")["State"]["Pid"]
    assert engine.stop() == 0  # makes the copy
    layers = {path.name for path in (engine.data_root / "layers/overlay2").iterdir() if path.name[0] != "."}
    path = engine.data_root / "state.db"
    content = path.read_bytes()
    for suffix in ("-wal", "-shm"):
        (engine.data_root / f"state.db{suffix}").unlink(missing_ok=True)
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(random.Random(1).randbytes(9000))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    if damage == "no records":
        (engine.data_root / "state.db.good").unlink()
    logged = len(engine.log_text())
    engine.start()
    assert "ERROR" in engine.log_text()[logged:]
    assert Path(f"/proc/{pid}").exists()
    assert layers <= {path.name for path in (engine.data_root / "layers/overlay2").iterdir()}
    if damage == "no records":
        engine.import_busybox("again:latest")
        assert engine.docker("run", "--rm", "again", "echo", "works").stdout == "works\n"
        os.kill(pid, signal.SIGKILL)
    else:
        assert engine.inspect("con")["State"]["Pid"] == pid
        assert engine.docker("exec", "con", "echo", "works").stdout == "works\n"


def test_a_removal_that_cannot_be_finished(own_engine) -> None:
    """R25: the engine starts, says so, serves the others, and lets the user try again."""
    engine = own_engine
    before = settled_state(engine)
    stuck = engine.docker("create", "--name", "stuck", "busybox").stdout.strip()
    engine.docker("run", "-d", "--name", "other", "busybox", "sleep", "1000")
    engine.kill()
    with contextlib.closing(sqlite3.connect(engine.data_root / "state.db", isolation_level=None)) as records:
        assert records.execute("UPDATE container SET status = 'removing' WHERE id = ?", (stuck,)).rowcount == 1
    # what something is mounted on cannot be renamed, and so not be taken away
    directory = engine.data_root / "containers" / stuck
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    try:
        logged = len(engine.log_text())
        engine.start()
        assert f"cannot remove {stuck}" in engine.log_text()[logged:]
        assert engine.docker("exec", "other", "echo", "works").stdout == "works\n"
        assert engine.docker("run", "--rm", "busybox", "echo", "works").stdout == "works\n"
        assert engine.http("DELETE", "/containers/stuck")[0] == 500
    finally:
        subprocess.run(["umount", directory], check=True)
    assert engine.http("DELETE", "/containers/stuck")[0] == 204
    assert not directory.exists()
    engine.docker("rm", "-f", "other")
    require_settled(engine, before)
