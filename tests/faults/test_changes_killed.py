"""R9 of faults.md: the engine dies while networks, names and limits of what runs change; all that shows them agrees."""

import contextlib
import http.client
import itertools
import json
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from conftest import assert_nothing_left, settled_state
from harness import Engine, wait_for
from host_state import READY, HostState
from orlop.engine.containers.records import decode_definition

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
ROUNDS = 5
MIB = 1 << 20
NAMES = ("one", "two")


class Changer(threading.Thread):
    """Changes a running container, again and again, until the engine dies."""

    def __init__(self, engine: Engine, box: str, kind: str) -> None:
        super().__init__()
        self._socket, self._box, self._kind = engine.socket, box, kind
        self._connection = http.client.HTTPConnection("localhost")
        self.refused: list[str] = []
        self.begun = threading.Event()

    def run(self) -> None:
        self._connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(self._connection):
            self._connection.sock.settimeout(60)
            self._connection.sock.connect(str(self._socket))
            for number in itertools.count():
                getattr(self, self._kind)(number)

    def _call(self, method: str, path: str, body: dict | None = None) -> None:
        self.begun.set()
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            self.refused.append(f"{method} {path}: {answer.status} {text!r}")

    def network(self, number: int) -> None:
        self._call("POST", "/networks/create", {"Name": f"made{number % 2}"})
        self._call("DELETE", f"/networks/made{number % 2}")

    def joining(self, _: int) -> None:
        self._call("POST", "/networks/second/connect", {"Container": self._box})
        self._call("POST", "/networks/second/disconnect", {"Container": self._box})

    def name(self, number: int) -> None:
        self._call("POST", f"/containers/{self._box}/rename?name={NAMES[number % 2]}")

    def limits(self, number: int) -> None:
        memory = (64 + number % 8) * MIB
        body = {"Memory": memory, "MemorySwap": memory, "PidsLimit": 50 + number % 8}
        self._call("POST", f"/containers/{self._box}/update", body)


def documents(engine: Engine, path: str):
    status, text = engine.http("GET", path)
    assert status == 200, text
    return json.loads(text)


def limit_in_force(engine: Engine, box: str, controller: str, old: str, new: str) -> int:
    path = f"{engine.cgroup_parent}/{box}".lstrip("/")
    file = Path("/sys/fs/cgroup", controller, path, old)
    return int((file if file.exists() else Path("/sys/fs/cgroup", path, new)).read_text())


def found_by(engine: Engine, name: str) -> bool:
    return engine.docker("exec", "peer", "nslookup", "-type=a", f"{name}.", check=False).returncode == 0


def require_agreement(engine: Engine, box: str) -> None:
    """What is recorded is what the container, the kernel, the rules and the name server have."""
    shown = documents(engine, f"/containers/{box}/json")
    name = shown["Name"][1:]
    assert [other for other in NAMES if found_by(engine, other)] == [name]
    assert {tuple(item["Names"]) for item in documents(engine, "/containers/json")} == {(f"/{name}",), ("/peer",)}
    host = shown["HostConfig"]
    assert limit_in_force(engine, box, "memory", "memory.limit_in_bytes", "memory.max") == host["Memory"]
    assert limit_in_force(engine, box, "pids", "pids.max", "pids.max") == host["PidsLimit"]

    inside = engine.docker("exec", box, "ip", "-o", "-4", "addr").stdout.splitlines()
    addresses = [line.split()[3].partition("/")[0] for line in inside]
    networks = shown["NetworkSettings"]["Networks"]
    assert sorted(addresses) == sorted(["127.0.0.1", *(entry["IPAddress"] for entry in networks.values())])
    interfaces = engine.docker("exec", box, "ls", "/sys/class/net").stdout.split()
    assert len(interfaces) == 1 + len(networks), interfaces
    assert engine.docker("exec", box, "ip", "route").stdout.count("default ") == 1
    hosts = engine.docker("exec", box, "cat", "/etc/hosts").stdout
    assert [entry["IPAddress"] for entry in networks.values() if entry["IPAddress"] not in hosts] == [], hosts

    there = [one for one in documents(engine, "/networks") if one["Driver"] == "bridge"]
    bridges = {"docker0" if one["Name"] == "bridge" else f"br-{one['Id'][:12]}" for one in there}
    links = json.loads(engine.in_network("ip", "-j", "link").stdout)
    assert {link["ifname"] for link in links if not link["ifname"].startswith("veth")} == {"lo", *bridges}
    peers = documents(engine, "/containers/peer/json")["NetworkSettings"]["Networks"].values()
    ports = [link["master"] for link in links if "master" in link]
    assert sorted(ports) == sorted(f"br-{entry['NetworkID'][:12]}" for entry in [*networks.values(), *peers])
    wait_for(lambda: HostState.of(engine).ready <= READY, what="end of links that nobody has")

    rules = engine.in_network("iptables-save").stdout.splitlines()
    assert not [line for line in rules for word in line.split() if word.startswith("br-") and word not in bridges]
    (leading,) = {line.rpartition("--to-destination ")[2] for line in rules if "--dport 8080 -j DNAT" in line}
    assert leading in {f"{entry['IPAddress']}:80" for entry in networks.values()}
    assert shown["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == "8080"


@contextlib.contextmanager
def running_box(engine: Engine) -> Iterator[str]:
    """A container on one of two networks, and a peer on both; nothing of them is left afterwards."""
    before = settled_state(engine)
    for name in ("first", "second"):
        engine.docker("network", "create", name)
    engine.docker("run", "-d", "--name", "peer", "--network", "first", "--dns", "127.0.0.1", "busybox", "sleep", "1000")
    engine.docker("network", "connect", "second", "peer")
    options = ("--name", "one", "--network", "first", "-p", "8080:80", "-m", "64m", "--pids-limit", "50")
    box = engine.docker("run", "-d", *options, "busybox", "sleep", "1000").stdout.strip()
    yield box
    engine.docker("rm", "-f", box, "peer")
    engine.docker("network", "rm", "first", "second")
    assert_nothing_left(engine, before, seconds=10, descriptors=8)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["network", "joining", "name", "limits"])
def test_killed_while_what_runs_changes(own_engine, kind) -> None:
    engine = own_engine
    with running_box(engine) as box:
        pid = engine.inspect(box)["State"]["Pid"]
        moments = random.Random(9)
        for _ in range(ROUNDS):
            changer = Changer(engine, box, kind)
            changer.start()
            assert changer.begun.wait(60)
            time.sleep(moments.uniform(0, 0.06))
            engine.kill()
            changer.join()
            engine.start()
            require_agreement(engine, box)
            # each round begins anew
            for network in documents(engine, "/networks"):
                if network["Name"].startswith("made"):
                    assert engine.http("DELETE", f"/networks/{network['Name']}")[0] == 204
            if "second" in documents(engine, f"/containers/{box}/json")["NetworkSettings"]["Networks"]:
                assert engine.http("POST", "/networks/second/disconnect", {"Container": box})[0] == 200
            if kind == "name" and engine.inspect(box)["Name"] == "/two":
                assert engine.http("POST", f"/containers/{box}/rename?name=one")[0] == 204
        assert engine.inspect(box)["State"]["Pid"] == pid
        assert "Traceback" not in engine.log_text()


def test_a_change_that_was_begun_is_finished(own_engine) -> None:
    """The moments between two steps, each as the engine would leave them: what the definition says holds."""
    engine = own_engine
    with running_box(engine) as box:
        for networks in ("both", "one", "other"):
            if networks != "one":
                engine.docker("network", "connect", "second", box)
            engine.kill()
            redefine(
                engine, box, networks={"second" if networks == "other" else "first": None}, memory=80 * MIB, pids=60
            )
            engine.start()
            require_agreement(engine, box)
            shown = engine.inspect(box)
            assert shown["HostConfig"]["Memory"] == 80 * MIB


def test_a_name_changes_in_one_step(own_engine) -> None:
    """No reader of the records, as the next engine is one, sees one name here and another one there."""
    engine = own_engine
    engine.docker("network", "create", "first")
    box = engine.docker("run", "-d", "--name", "two", "--network", "first", "busybox", "sleep", "1000").stdout.strip()
    changer = Changer(engine, box, "name")
    changer.start()
    seen: dict[str, int] = {}
    with contextlib.closing(sqlite3.connect(engine.data_root / "state.db", isolation_level=None)) as records:
        until = time.monotonic() + 60
        while min(seen.get(name, 0) for name in NAMES) < 3000 and time.monotonic() < until:
            ((name, more),) = records.execute(
                "SELECT name, more FROM container JOIN endpoint ON container_id = container.id"
            ).fetchall()
            assert [other for other in json.loads(more)["names"] if other in NAMES] == [name]
            seen[name] = seen.get(name, 0) + 1
    engine.kill()
    changer.join()
    engine.start()
    assert min(seen.get(name, 0) for name in NAMES) >= 3000
    assert not changer.refused


def redefine(engine: Engine, box: str, *, networks: dict, memory: int, pids: int) -> None:
    """Write what an engine notes before it changes what runs."""
    with contextlib.closing(sqlite3.connect(engine.data_root / "state.db", isolation_level=None)) as records:
        (row,) = records.execute("SELECT definition FROM container WHERE id = ?", (box,)).fetchone()
        definition = decode_definition(row)
        host = msgspec.structs.replace(definition.host, memory=memory, memory_swap=memory, pids_limit=pids)
        changed = msgspec.structs.replace(definition, host=host, networks=networks, unsettled=True)
        values = msgspec.msgpack.encode(changed), box
        records.execute("UPDATE container SET definition = ? WHERE id = ?", values)
