"""R2 to R5, R8, R9, R26 of faults.md: the engine dies at arbitrary moments; what it acknowledged holds, nothing is half."""

import contextlib
import http.client
import io
import json
import os
import random
import shutil
import socket
import sqlite3
import tarfile
import threading
import time
from pathlib import Path

import pytest

from conftest import assert_nothing_left, settled_state
from harness import Engine, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
ROUNDS = 12


class Client(threading.Thread):
    """Makes requests until the engine dies and keeps in ``expected`` what must hold then; None: either way."""

    def __init__(self, engine: Engine, kind: str, mark: str, layer: bytes) -> None:
        super().__init__()
        self._socket, self._kind, self._mark, self._layer = engine.socket, kind, mark, layer
        self.expected: dict[str, set[str]] = {}
        self.refused: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.sock.settimeout(20)
            connection.sock.connect(str(self._socket))
            for number in range(10_000):
                getattr(self, self._kind)(connection, f"{self._kind}{self._mark}x{number}")

    def _call(self, connection: http.client.HTTPConnection, method: str, path: str, body=None):
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, {} if data is None else {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            self.refused.append(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text) if text and answer.status < 300 else {}

    def _become(self, connection: http.client.HTTPConnection, thing: str, state: str, *request) -> None:
        """Either state is right while the request is under way."""
        self.expected[thing] = {*self.expected.get(thing, {"absent"}), state}
        self._call(connection, *request)
        self.expected[thing] = {state}

    def container(self, connection: http.client.HTTPConnection, name: str) -> None:
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"Binds": [f"vol{name}:/data"]}}
        path = f"/containers/{name}"
        self._become(connection, name, "created", "POST", f"/containers/create?name={name}", body)
        self._become(connection, name, "running", "POST", f"{path}/start")
        made = self._call(connection, "POST", f"{path}/exec", {"Cmd": ["true"]})
        self._call(connection, "POST", f"/exec/{made['Id']}/start", {"Detach": True})
        self._become(connection, name, "exited", "POST", f"{path}/stop?t=0")
        if int(name.rpartition("x")[2]) % 2:
            self._become(connection, name, "absent", "DELETE", path)

    def image(self, connection: http.client.HTTPConnection, name: str) -> None:
        tag = f"{name}:latest"
        self._become(connection, tag, "present", "POST", f"/images/create?fromSrc=-&repo={name}", self._layer)
        self._become(connection, f"{name}:b", "present", "POST", f"/images/{tag}/tag?repo={name}&tag=b")
        self._become(connection, tag, "absent", "DELETE", f"/images/{tag}")
        if int(name.rpartition("x")[2]) % 2:
            self._become(connection, f"{name}:b", "absent", "DELETE", f"/images/{name}:b")

    def volume(self, connection: http.client.HTTPConnection, name: str) -> None:
        self._become(connection, name, "present", "POST", "/volumes/create", {"Name": name})
        if int(name.rpartition("x")[2]) % 2:
            self._become(connection, name, "absent", "DELETE", f"/volumes/{name}")


def answer_of(engine: Engine, path: str):
    status, text = engine.http("GET", path)
    assert status == 200
    return json.loads(text)


def found_in(engine: Engine) -> dict[str, str]:
    found = {item["Names"][0][1:]: item["State"] for item in answer_of(engine, "/containers/json?all=1")}
    found |= {tag: "present" for item in answer_of(engine, "/images/json") for tag in item["RepoTags"] or ()}
    return found | {item["Name"]: "present" for item in answer_of(engine, "/volumes")["Volumes"] or ()}


def usable_and_removed(engine: Engine, found: dict[str, str]) -> None:
    """Everything that is there can be used, and then removed."""
    for name, state in found.items():
        if state == "present":
            continue
        if state == "running":
            assert engine.http("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})[0] == 201
            assert Path(f"/proc/{answer_of(engine, f'/containers/{name}/json')['State']['Pid']}").exists()
        else:
            assert state in {"created", "exited"}
            assert engine.http("POST", f"/containers/{name}/start")[0] == 204
        assert engine.http("DELETE", f"/containers/{name}?force=1")[0] == 204
    for name, state in found.items():
        if state == "present" and name != "busybox:latest":
            kind = "images" if ":" in name else "volumes"
            assert engine.http("DELETE", f"/{kind}/{name}")[0] in {200, 204}, name
    engine.http("POST", "/images/prune")


@pytest.mark.timeout(180)
def test_killed_at_any_moment(own_engine) -> None:
    engine = own_engine
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo("file")
            entry.size = 200_000
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
        layer = file.getvalue()
    before = settled_state(engine)
    moments = random.Random(20)
    for round_ in range(ROUNDS):
        kinds = ("container", "container", "image", "volume")
        clients = [Client(engine, kind, f"r{round_}n{number}", layer) for number, kind in enumerate(kinds)]
        for client in clients:
            client.start()
        time.sleep(moments.uniform(0.01, 0.2))
        engine.kill()
        for client in clients:
            client.join()
        engine.start()
        found = found_in(engine)
        wrong = [
            (thing, states, found.get(thing, "absent"))
            for client in clients
            for thing, states in client.expected.items()
            if found.get(thing, "absent") not in states
        ]
        assert not wrong
        assert not [text for client in clients for text in client.refused]
        usable_and_removed(engine, found)
    assert_nothing_left(engine, before, seconds=10, descriptors=8)
    assert "Traceback" not in engine.log_text()


def test_after_a_reboot(own_engine) -> None:
    """R26: the exec-root is gone, processes are gone and the boot id is another one."""
    engine = own_engine
    engine.docker("run", "-d", "--name", "plain", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "always", "--restart", "always", "-p", "8070:80", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "unless", "--restart", "unless-stopped", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "stopped", "--restart", "unless-stopped", "busybox", "sleep", "1000")
    engine.docker("stop", "-t", "0", "stopped")
    engine.kill()
    for pid in engine.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    wait_for(lambda: not engine.processes())
    with contextlib.closing(sqlite3.connect(engine.data_root / "state.db", isolation_level=None)) as records:
        assert records.execute("UPDATE container SET boot = 'another'").rowcount == 4
    shutil.rmtree(engine.exec_root)
    engine.in_network("ip", "link", "del", "docker0")
    engine.start()
    plain = engine.inspect("plain")["State"]
    assert (plain["Status"], plain["ExitCode"] in {137, 255}) == ("exited", True)
    for name in ("always", "unless"):
        wait_for(lambda name=name: engine.inspect(name)["State"]["Running"])
    assert engine.inspect("stopped")["State"]["Status"] == "exited"
    engine.docker("start", "plain")
    assert engine.docker("exec", "plain", "echo", "works").stdout == "works\n"
