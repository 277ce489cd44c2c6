"""What the container service does beyond the main job, through the real docker client and bare HTTP."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from harness import PATIENCE, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def state(engine, name):
    return engine.inspect(name)["State"]


def test_a_client_attached_before_the_start_gets_everything(leak_free):
    leak_free.docker("create", "-i", "--name", "waiting", "busybox", "cat")
    assert leak_free.docker("start", "-ai", "waiting", input="piped\n").stdout == "piped\n"


SAID = b"\x01\0\0\0\0\0\0\x05said\n"


@contextlib.contextmanager
def attached(engine, name, streams="stdout=1"):
    """A client that the container has; its connection is cut at the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20 * PATIENCE)
        client.connect(str(engine.socket))
        client.sendall(f"POST /v1.45/containers/{name}/attach?stream=1&{streams} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = client.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        yield client


@pytest.mark.parametrize("streams", ["stdout=1", "stdin=1&stdout=1"])
def test_clients_that_vanish_before_the_start_keep_nobody_out(leak_free, streams):
    leak_free.docker("create", "-i", "--name", "box", "--network", "none", "busybox", "echo", "said")
    for _ in range(40):
        with attached(leak_free, "box", streams):
            pass
    with attached(leak_free, "box") as client:
        leak_free.docker("start", "box")
        assert client.recv(100) == SAID
        assert client.recv(100) == b""


def test_what_a_client_said_before_it_vanished_is_the_programs(leak_free):
    leak_free.docker("create", "-i", "--name", "box", "--network", "none", "busybox", "head", "-n1")
    with attached(leak_free, "box", "stdin=1") as client:
        client.sendall(b"said\n")
    with attached(leak_free, "box") as client:
        leak_free.docker("start", "box")
        assert client.recv(100) == SAID


def _stop_family(pid: int) -> list[int]:
    """Stop a process and all below it; a parent first, so that no child is reaped or made meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ", what="stop")
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += _stop_family(int(child))
    return found


def test_a_client_attached_during_the_start_gets_everything(own_engine):
    engine = own_engine
    engine.docker("create", "--name", "box", "--network", "none", "busybox", "sh", "-c", "sleep 0.5; echo said")
    stopped, answers = _stop_family(engine.spawner()), []
    starting = threading.Thread(target=lambda: answers.append(engine.http("POST", "/containers/box/start")))
    with contextlib.ExitStack() as hung_up:
        try:
            starting.start()
            time.sleep(0.3)
            assert answers == []
            client = hung_up.enter_context(attached(engine, "box"))
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        starting.join()
        assert client.recv(100) == SAID
        assert client.recv(100) == b""
    assert answers[0][0] == 204


def test_health_is_probed_at_once(leak_free):
    leak_free.docker("run", "-d", "--name", "healthy", "--health-cmd", "true", "busybox", "sleep", "100")
    wait_for(lambda: state(leak_free, "healthy")["Health"]["Status"] == "healthy", seconds=5, what="health")
    leak_free.docker(
        *("run", "-d", "--name", "sick", "--health-cmd", "echo no; exit 3", "--health-interval", "50ms"),
        *("--health-retries", "2", "busybox", "sleep", "100"),
    )
    wait_for(lambda: state(leak_free, "sick")["Health"]["Status"] == "unhealthy", seconds=5, what="ill health")
    probe = state(leak_free, "sick")["Health"]["Log"][-1]
    assert (probe["ExitCode"], probe["Output"]) == (3, "no\n")


def test_removal_in_the_middle_of_a_probe_leaves_nothing(leak_free):
    for _ in range(8):  # each probe is being started for most of its time
        leak_free.docker(
            "run", "-d", "--name", "hasty", "--health-cmd", "true", "--health-interval", "1ms", "busybox", "sleep", "9"
        )
        leak_free.docker("rm", "-f", "hasty")


def test_pause_stops_and_unpause_goes_on(leak_free):
    leak_free.docker("run", "-d", "--name", "pausing", "busybox", "sleep", "100")
    leak_free.docker("pause", "pausing")
    assert state(leak_free, "pausing")["Status"] == "paused"
    refused = leak_free.docker("exec", "pausing", "true", check=False)
    assert "is paused, unpause the container before exec" in refused.stderr
    leak_free.docker("unpause", "pausing")
    assert leak_free.docker("exec", "pausing", "echo", "on").stdout == "on\n"
    leak_free.docker("pause", "pausing")
    leak_free.docker("rm", "-f", "pausing")


def test_logs_rotate_and_read_as_one(leak_free):
    script = "for i in $(seq 200); do echo line $i; done"
    options = ("--log-opt", "max-size=4k", "--log-opt", "max-file=3")
    leak_free.docker("run", "--name", "talker", *options, "busybox", "sh", "-c", script)
    lines = leak_free.docker("logs", "talker").stdout.splitlines()
    assert lines[-1] == "line 200"
    assert lines == [f"line {number}" for number in range(201 - len(lines), 201)]
    directory = os.path.dirname(leak_free.inspect("talker")["LogPath"])
    assert len([name for name in os.listdir(directory) if "-json.log" in name]) == 3
    assert leak_free.docker("logs", "--tail", "2", "talker").stdout == "line 199\nline 200\n"


def test_the_driver_local_rotates_and_is_read_but_shows_no_file(leak_free):
    options = ("--log-driver", "local", "--log-opt", "max-size=4k", "--log-opt", "max-file=2")
    leak_free.docker("run", "--name", "local", *options, "busybox", "seq", "200")
    lines = leak_free.docker("logs", "local").stdout.split()
    assert lines == [str(number) for number in range(201 - len(lines), 201)]
    assert 0 < len(lines) < 200
    assert leak_free.inspect("local")["LogPath"] == ""
    leak_free.docker("rm", "local")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_rotated_logs_are_compressed_and_read_as_one(leak_free, driver):
    options = ["--log-driver", driver]
    for option in ("max-size=4k", "max-file=4", "compress=true"):
        options += ["--log-opt", option]
    script = "seq 400; sleep 1000"
    leak_free.docker("run", "-d", "--name", "talker", *options, "busybox", "sh", "-c", script)
    directory = leak_free.data_root / "containers" / leak_free.inspect("talker")["Id"]

    def rotated():
        return sorted(path.name.rpartition(".log.")[2] for path in directory.glob("*.log.*"))

    wait_for(lambda: leak_free.docker("logs", "--tail", "1", "talker").stdout == "400\n", what="the last line")
    wait_for(lambda: rotated() == ["1.gz", "2.gz", "3.gz"], what="compressed files")
    lines = leak_free.docker("logs", "talker").stdout.split()
    assert lines == [str(number) for number in range(401 - len(lines), 401)]
    assert len(lines) > 100
    assert leak_free.docker("logs", "--tail", "150", "talker").stdout.split() == lines[-150:]
    leak_free.docker("rm", "-f", "talker")


def test_labels_variables_and_a_tag_go_with_each_line(leak_free):
    options = ["--label", "a.b=1", "--label", "c=2", "-e", "SECRET=x", "-e", "STAGE=a test"]
    for option in ("labels-regex=^a[.]", "env=STAGE", "tag={{.Name}}/{{ .ImageName }}"):
        options += ["--log-opt", option]
    leak_free.docker("run", "--name", "told", *options, "busybox", "echo", "hi")
    assert leak_free.docker("logs", "--details", "told").stdout == "STAGE=a+test,a.b=1,tag=told%2Fbusybox hi\n"
    leak_free.docker("rm", "told")


def test_update_reaches_the_running_container(leak_free):
    leak_free.docker("run", "-d", "--name", "growing", "-m", "32m", "busybox", "sleep", "100")
    leak_free.docker("update", "-m", "48m", "--memory-swap", "96m", "--restart", "always", "growing")
    host = leak_free.inspect("growing")["HostConfig"]
    assert (host["Memory"], host["RestartPolicy"]["Name"]) == (48 << 20, "always")
    status, body = leak_free.http("GET", "/containers/growing/stats?stream=0&one-shot=1")
    assert status == 200
    assert json.loads(body)["memory_stats"]["limit"] == 48 << 20


def test_a_killed_shim_ends_its_container_with_137(leak_free):
    leak_free.docker("run", "-d", "--name", "orphan", "busybox", "sleep", "100")
    pid = state(leak_free, "orphan")["Pid"]
    with open(f"/proc/{pid}/stat") as file:
        shim = int(file.read().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    wait_for(lambda: state(leak_free, "orphan")["Status"] == "exited", what="end")
    assert state(leak_free, "orphan")["ExitCode"] == 137
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the zombie is reaped")


def test_wait_sees_each_condition(leak_free):
    leak_free.docker("create", "--name", "short", "busybox", "sh", "-c", "exit 6")
    assert leak_free.http("POST", "/containers/short/wait?condition=bogus", "")[0] == 400
    leak_free.docker("start", "short")
    status, body = leak_free.http("POST", "/containers/short/wait")
    assert (status, json.loads(body)["StatusCode"]) == (200, 6)


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"Runtime": "kata"}, 400, "unknown or invalid runtime name: kata"),
        ({"VolumesFrom": ["x"]}, 400, "No such container: x"),
        ({"UsernsMode": "private"}, 501, "user namespace mode"),
        ({"Memory": 10**30}, 400, "out of range"),
        ({"Memory": 1024}, 400, "Minimum memory limit allowed is 6MB"),
        ({"RestartPolicy": {"Name": "sometimes"}}, 400, "invalid restart policy"),
        ({"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, 400, "can't create 'AutoRemove' container"),
        ({"SecurityOpt": ["bogus"]}, 400, "invalid --security-opt"),
        ({"CapAdd": ["CAP_NONSENSE"]}, 400, "unknown capability"),
        ({"Binds": ["relative/path:/x"]}, 400, "includes invalid characters for a local volume name"),
        ({"LogConfig": {"Type": "syslog"}}, 501, "log driver 'syslog' is not supported"),
    ],
)
def test_what_cannot_be_honoured_is_refused(leak_free, fields, status, text):
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": fields}
    answer, document = leak_free.http("POST", "/containers/create", body)
    assert answer == status, document
    assert text in json.loads(document)["message"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("run", "--rm", "-i", "busybox", "head", "-c", "10"), 0),
        (("run", "--rm", "-i", "busybox", "sh", "-c", "exit 3"), 3),
        (("exec", "-i", "takes", "sh", "-c", "exit 4"), 4),
        (("exec", "-i", "takes", "nosuch"), 127),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_input_that_nobody_reads_is_no_error(engine, words, code):
    """A connection that is closed with unread bytes in it would be reset, and the docker client end with 1."""
    engine.docker("run", "-d", "--name", "takes", "busybox", "sleep", "100")
    done = engine.docker(*words, check=False, input="x" * (4 << 20))
    assert (done.returncode, "reset" in done.stderr) == (code, False), done.stderr
