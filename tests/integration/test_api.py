"""The Engine API as clients see it: documents, events, refusals, sockets and the daemon's life."""

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from conftest import make_engine
from harness import BIN, DOCKER, PATIENCE, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
SHAPES = json.loads((Path(__file__).parents[1] / "golden/api/dockerd-26.1-shapes-1.45.json").read_text())
# nothing is mounted on the host, so there is no merged directory to name
LEFT_OUT = {"/images/IMAGE/json/GraphDriver/Data/MergedDir"}


def shape(value):
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def differences(expected, got, path):
    if path in LEFT_OUT or path == "/info/Runtimes":
        return
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in expected.keys() | got.keys():
            place = f"{path}/{key}"
            if key not in got:
                if place not in LEFT_OUT:
                    yield f"missing: {place}"
            elif key not in expected:
                yield f"unknown to Docker: {place}"
            else:
                yield from differences(expected[key], got[key], place)
    elif isinstance(expected, list) and isinstance(got, list):
        if expected and got:
            yield from differences(expected[0], got[0], f"{path}[]")
    elif expected != got:
        yield f"{path}: {got}, Docker has {expected}"


def get(engine, path):
    status, body = engine.http("GET", f"/v1.45{path}")
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize("path", sorted(path for path in SHAPES if path != "/system/df"))
def test_documents_have_dockers_fields_and_types(engine, path) -> None:
    engine.http("POST", "/v1.45/volumes/create", {"Name": "shape-v"})
    engine.http("POST", "/v1.45/networks/create", {"Name": "shape-n", "IPAM": {}})
    try:
        got = shape(get(engine, path.replace("IMAGE", "busybox")))
    finally:
        engine.http("DELETE", "/v1.45/volumes/shape-v")
        engine.http("DELETE", "/v1.45/networks/shape-n")
    allowed = {
        "/networks/shape-n/IPAM/Options: {}, Docker has NoneType",
        "/images/IMAGE/json/Config/Cmd: ['str'], Docker has NoneType",  # this image has a command
    }
    assert set(differences(SHAPES[path], got, path)) - allowed == set()


def test_disk_usage_adds_up(engine) -> None:
    engine.docker(
        "run",
        "--name",
        "writer",
        "-v",
        "du:/data",
        "busybox",
        "sh",
        "-c",
        "head -c 100000 /dev/zero >/data/x; cp /data/x /y",
    )
    try:
        engine.http("POST", "/build/prune?all=1")  # what tests before this one left
        engine.docker("image", "prune", "-af")
        usage = get(engine, "/system/df")
        (image,) = [image for image in usage["Images"] if "busybox:latest" in image["RepoTags"]]
        assert image["Containers"] == 1
        assert usage["LayersSize"] == image["Size"] > 1_000_000
        (volume,) = [volume for volume in usage["Volumes"] if volume["Name"] == "du"]
        assert volume["UsageData"] == {"RefCount": 1, "Size": 100_000}
        assert usage["Containers"][0]["SizeRw"] >= 100_000
        assert usage["BuildCache"] == []
        assert set(get(engine, "/system/df?type=volume")) == {"Volumes"}
    finally:
        engine.remove_containers()
        engine.docker("volume", "rm", "du")


def test_events_of_a_run_are_dockers(engine) -> None:
    since = time.time_ns()
    engine.docker("run", "--name", "ev", "--label", "l=1", "busybox", "sh", "-c", "exit 3", check=False)
    engine.docker("rm", "ev")
    text = engine.docker(
        "events",
        "--since",
        f"{since / 1e9:.9f}",
        "--until",
        f"{time.time():.9f}",
        "--format",
        "{{json .}}",
        "--filter",
        "container=ev",
    ).stdout
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["Action"] for event in events] == ["create", "attach", "start", "die", "destroy"]
    die = events[3]["Actor"]["Attributes"]
    assert (die["exitCode"], die["name"], die["image"], die["l"]) == ("3", "ev", "busybox", "1")


def test_volume_and_network_commands(engine) -> None:
    engine.docker("volume", "create", "--label", "a=b", "v1")
    assert engine.docker("volume", "ls", "-q", "-f", "label=a=b").stdout == "v1\n"
    engine.docker("create", "--name", "user", "-v", "v1:/x", "busybox")
    refused = engine.docker("volume", "rm", "v1", check=False)
    assert "volume is in use - [" in refused.stderr
    engine.docker("rm", "user")
    engine.docker("volume", "rm", "v1")
    assert "no such volume" in engine.docker("volume", "inspect", "v1", check=False).stderr.lower()
    engine.docker("network", "create", "--subnet", "10.99.0.0/24", "n1")
    try:
        assert (
            engine.docker(
                "run", "--rm", "--network", "n1", "busybox", "ip", "-o", "-4", "addr", "show", "eth0"
            ).stdout.count("10.99.0.2/24")
            == 1
        )
    finally:
        engine.docker("network", "rm", "n1")
    gone = engine.docker("network", "inspect", "n1", check=False).stderr
    # the latter is what the client of 20.10 makes of it
    assert "network n1 not found" in gone or "No such network: n1" in gone


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("swarm", "init"), "swarm mode is not supported"),
        (("node", "ls"), "This node is not a swarm manager."),
        (("save", "no-such-image"), "No such image: no-such-image"),
        (("save", "no-such-image:1"), "reference does not exist"),
        (("images", "-f", "until=bad"), 'failed to parse value as time or duration: "bad"'),
        (("network", "rm", "bridge"), "bridge is a pre-defined network and cannot be removed"),
        (("network", "create", "host"), "operation is not permitted on predefined host network"),
        (("volume", "create", "a/b"), "includes invalid characters for a local volume name"),
        (("tag", "nope", "x"), "No such image: nope:latest"),
        (("tag", "busybox", "UPPER"), "invalid reference format: repository name"),
        (("rmi", "nope"), "No such image: nope"),
        (("plugin", "install", "x"), "plugins are not supported"),
    ],
)
def test_refusals_are_clear(engine, arguments, text) -> None:
    done = engine.docker(*arguments, check=False)
    assert done.returncode != 0
    assert text in done.stderr


def test_ping_is_what_clients_expect(engine) -> None:
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(engine.socket))
    for method in ("GET", "HEAD"):
        connection.request(method, "/_ping")
        answer = connection.getresponse()
        assert answer.read() == (b"OK" if method == "GET" else b"")
        assert answer.headers["Api-Version"] == "1.50"
        assert answer.headers["Ostype"] == "linux"
        assert answer.headers["Builder-Version"] == "1"
        assert answer.headers["Docker-Experimental"] == "false"
        assert answer.headers["Swarm"] == "inactive"
    connection.close()


def test_old_client_is_served(engine) -> None:
    version = engine.docker(
        "version", "--format", "{{.Client.APIVersion}} {{.Server.APIVersion}}", env={"DOCKER_API_VERSION": "1.24"}
    )
    assert version.stdout == "1.24 1.50\n"
    assert engine.docker("run", "--rm", "busybox", "echo", "hi", env={"DOCKER_API_VERSION": "1.30"}).stdout == "hi\n"


def test_slow_and_half_open_clients_hold_nobody_up(engine) -> None:  # R21, H5
    idle = []
    for number in range(200):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(engine.socket))
        if number % 2:
            client.sendall(b"POST /v1.45/containers/create HTTP/1.1\r\nHost: x\r\nContent-Le")
        idle.append(client)
    try:
        start = time.monotonic()
        assert engine.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
        assert time.monotonic() - start < 5 * PATIENCE
    finally:
        for client in idle:
            client.close()


def test_listeners_that_do_not_read_are_bounded(engine) -> None:  # H13
    listeners = []
    for _ in range(50):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(engine.socket))
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        listeners.append(client)
    wait_for(lambda: get(engine, "/info")["NEventsListener"] >= 50, what="listeners")
    for client in listeners:
        client.close()
    wait_for(lambda: get(engine, "/info")["NEventsListener"] == 0, what="end of the listeners")


def test_sigterm_is_prompt_and_clean(own_engine) -> None:
    engine = own_engine
    engine.docker("run", "-d", "--name", "stays", "busybox", "sleep", "1000")
    with subprocess.Popen([DOCKER, "events"], env=engine.environment, stdout=subprocess.DEVNULL) as listener:
        wait_for(lambda: get(engine, "/info")["NEventsListener"] == 1)
        start = time.monotonic()
        assert engine.stop() == 0
        assert time.monotonic() - start < 10 * PATIENCE
        listener.wait(5 * PATIENCE)
    assert not engine.socket.exists()
    assert not (engine.home / "engine.pid").exists()
    engine.start()
    assert engine.inspect("stays")["State"]["Running"]


def test_sighup_reloads_labels(own_engine) -> None:
    engine = own_engine
    engine.stop()
    (engine.home / "daemon.json").write_text(json.dumps({"labels": ["a=1"]}))
    engine.start()
    assert get(engine, "/info")["Labels"] == ["a=1"]
    (engine.home / "daemon.json").write_text(json.dumps({"labels": ["a=2"]}))
    engine.process.send_signal(signal.SIGHUP)
    wait_for(lambda: get(engine, "/info")["Labels"] == ["a=2"], what="reload")
    (engine.home / "daemon.json").write_text("{")
    engine.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "configuration is not reloaded" in engine.log_text(), what="refusal")
    assert get(engine, "/info")["Labels"] == ["a=2"]


def test_tcp_needs_a_flag_and_refuses_browsers(tmp_path) -> None:  # H2, H3
    engine = make_engine("--host", "tcp://127.0.0.1:23750", "--tcp-without-tls")
    try:
        script = (
            "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 23750); "
            "c.request('GET', '/_ping', headers=dict(h.split('=') for h in sys.argv[1:])); print(c.getresponse().status)"
        )

        def ask(*headers):
            return engine.in_network("python3", "-c", script, *headers).stdout.strip()

        assert ask() == "200"
        assert ask("Host=localhost:23750") == "200"
        assert ask("Host=evil.example:23750") == "403"
        assert ask("Origin=http://evil.example") == "403"
        refused = subprocess.run(
            [
                BIN / "orlopd",
                "--host",
                "tcp://127.0.0.1:1",
                "--data-root",
                tmp_path / "d",
                "--exec-root",
                tmp_path / "r",
            ],
            capture_output=True,
            text=True,
            timeout=30 * PATIENCE,
        )
        assert refused.returncode == 1
        assert "refusing to listen on TCP without TLS" in refused.stderr
    finally:
        engine.destroy()


def test_hijack_works_over_tcp(tmp_path) -> None:
    engine = make_engine("--host", "tcp://127.0.0.1:23750", "--tcp-without-tls")
    try:
        engine.import_busybox()
        done = engine.in_network(
            DOCKER, "-H", "tcp://127.0.0.1:23750", "run", "--rm", "-i", "busybox", "cat", input="through tcp"
        )
        assert done.stdout == "through tcp"
    finally:
        engine.destroy()


def test_damaged_database_is_put_aside_and_the_engine_starts(own_engine) -> None:  # R25
    engine = own_engine
    engine.docker("run", "-d", "--name", "stays", "busybox", "sleep", "1000")
    engine.stop()
    engine.start()  # a good start keeps a copy of the records
    engine.kill()
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(engine.data_root / f"state.db{suffix}")
    (engine.data_root / "state.db").write_bytes(b"garbage" * 1000)
    engine.start()
    assert [path for path in os.listdir(engine.data_root) if path.startswith("state.db.damaged-")]
    assert engine.inspect("stays")["State"]["Running"]
    assert engine.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"


def test_newer_records_are_refused_politely(own_engine) -> None:  # R28
    import sqlite3

    engine = own_engine
    engine.stop()
    connection = sqlite3.connect(engine.data_root / "state.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(AssertionError, match="written by a newer version of orlop"):
        engine.start()
    connection = sqlite3.connect(engine.data_root / "state.db")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    engine.start()


def test_directories_and_socket_are_private(engine) -> None:  # H1, H6
    def mode(path):
        return stat.S_IMODE(os.lstat(path).st_mode)

    assert mode(engine.data_root) == 0o710
    assert mode(engine.exec_root) == 0o711
    assert mode(engine.exec_root / "shims") == 0o700
    assert mode(engine.data_root / "state.db") == 0o600
    assert mode(engine.socket) & 0o007 == 0
