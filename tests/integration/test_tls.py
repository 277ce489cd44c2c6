"""An engine on TCP with TLS: the real docker client, docker-py, Compose and orlop do there what they do on a unix socket."""

import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal_lab import Session
from tls_lab import ADDRESS, PORT, Lab, Material, tls_environment, tls_flags

from conftest import make_engine
from harness import BIN, COMPOSE, DOCKER, PATIENCE, wait_for
from host_state import HostState

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]
CLIENTS = pytest.mark.parametrize("program", [DOCKER, str(BIN / "orlop")], ids=["docker", "orlop"])


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    material = Material(tmp_path_factory.mktemp("tls") / "material")
    engine = make_engine("--host", ADDRESS, *tls_flags(material.server))
    try:
        engine.import_busybox()
        yield Lab(engine, material)
    finally:
        engine.destroy()


@pytest.fixture(autouse=True)
def nothing_is_left(lab):
    """After each test neither a connection nor a descriptor is left that was not there before."""
    lab.run(DOCKER, "version")
    wait_for(lambda: lab.joined() == 0, what="no connection")
    before = HostState.before(lab.engine)
    yield
    lab.engine.remove_containers()
    wait_for(lambda: lab.joined() == 0, seconds=15, what="end of all connections")
    wait_for(lambda: HostState.of(lab.engine).descriptors <= before.descriptors + 2, what="end of all descriptors")


@pytest.fixture
def terminal(lab):
    sessions = []

    class Place:
        environment = lab.environment

    def make(*words):
        sessions.append(Session(Place, *lab.command(*words)))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


@CLIENTS
def test_input_by_a_pipe_and_output_by_its_hash(lab, program) -> None:
    data = random.Random(1).randbytes(20_000_000)
    digest = hashlib.sha256(data).hexdigest()
    counted = lab.run(program, "run", "--rm", "-i", "busybox", "sha256sum", input=data, text=False)
    assert counted.stdout.decode().split()[0] == digest
    echoed = lab.run(program, "run", "--rm", "-i", "busybox", "cat", input=data, text=False)
    assert hashlib.sha256(echoed.stdout).hexdigest() == digest
    # the end of the input is told, and what comes after it still arrives
    late = lab.run(
        program, "run", "--rm", "-i", "busybox", "sh", "-c", "cat >/dev/null; sleep 0.5; echo late", input="x"
    )
    assert late.stdout == "late\n"
    both = lab.run(program, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (both.stdout, both.stderr, both.returncode) == ("out\n", "err\n", 7)


@CLIENTS
def test_terminal_detach_and_attach(lab, terminal, program) -> None:
    shell = terminal(program, "run", "-it", "--name", "shell", "busybox", "sh")
    shell.expect("# ")
    # docker's client before 23 sends the size when the shell runs already
    shell.type("until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; echo he''re\n")
    shell.expect("here")
    shell.type("\x10\x11")
    assert shell.end() == 0
    assert lab.engine.inspect("shell")["State"]["Running"]
    again = terminal(program, "attach", "shell")
    again.expect("# ")
    again.type("echo ba''ck\n")
    again.expect("back")
    again.type("exit 42\n")
    assert again.end() == 42


@CLIENTS
def test_exec(lab, terminal, program) -> None:
    lab.run(program, "run", "-d", "--name", "box", "busybox", "sleep", "100")
    data = random.Random(2).randbytes(5_000_000)
    done = lab.run(program, "exec", "-i", "box", "cat", input=data, text=False)
    assert done.stdout == data
    assert lab.run(program, "exec", "box", "sh", "-c", "exit 9", check=False).returncode == 9
    shell = terminal(program, "exec", "-it", "box", "sh")
    shell.expect("# ")
    shell.type("exit 3\n")
    assert shell.end() == 3


@CLIENTS
def test_client_that_vanishes(lab, program) -> None:
    lab.run(program, "run", "-d", "--name", "box", "busybox", "sleep", "100")
    commands = [
        ("run", "-i", "--rm", "busybox", "cat"),
        ("exec", "-i", "box", "cat"),
        ("logs", "-f", "box"),
        ("events",),
        ("attach", "--no-stdin", "box"),
        ("stats", "box"),
    ]
    clients = [lab.start(program, *words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for words in commands]
    wait_for(lambda: len(lab.engine.docker("ps", "-q").stdout.split()) == 2, what="start of the other container")
    wait_for(lambda: lab.engine.inspect("box")["ExecIDs"], what="exec")
    wait_for(lambda: lab.joined() >= len(commands), what="connections")
    time.sleep(0.5)
    for client in clients:
        client.send_signal(signal.SIGKILL)
        client.wait()
        client.stdin.close()
    wait_for(lambda: lab.joined() <= 1, what="end of the connections")  # that of attach may stay until output comes
    assert lab.engine.inspect("box")["State"]["Running"]
    lab.run(program, "rm", "-f", "box")
    wait_for(lambda: not lab.run(DOCKER, "ps", "-aq").stdout, what="end of the container whose input ended")


@CLIENTS
def test_copies_logs_and_events(lab, program, tmp_path) -> None:
    data = random.Random(3).randbytes(5_000_000)
    (tmp_path / "file").write_bytes(data)
    began = time.time()
    lab.run(program, "run", "-d", "--name", "box", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert lab.run(program, "logs", "-f", "box").stdout == "1\n2\n3\n"
    lab.run(program, "cp", tmp_path / "file", "box:/file")
    lab.run(program, "cp", "box:/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert lab.run(program, "wait", "box").stdout == "0\n"
    until = time.time() + 1
    told = lab.run(program, "events", "--since", str(began), "--until", str(until), "--format", "{{.Action}}").stdout
    assert {"create", "start", "die"} <= set(told.split())


def test_orlop_builds(lab, tmp_path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=word cat /run/secrets/word >/word\nCOPY file /\n"
    )
    (tmp_path / "file").write_bytes(random.Random(4).randbytes(1_000_000))
    (tmp_path / "word").write_text("secret of the client")
    secret = f"id=word,src={tmp_path}/word"
    lab.run(BIN / "orlop", "build", "-t", "built", "--secret", secret, tmp_path)
    assert lab.run(DOCKER, "run", "--rm", "built", "cat", "/word").stdout == "secret of the client"
    lab.run(DOCKER, "rmi", "built")


def test_classic_build(lab, tmp_path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo made >/made\n")
    lab.run(DOCKER, "build", "-t", "built", tmp_path, env={"DOCKER_BUILDKIT": "0"})
    assert lab.run(DOCKER, "run", "--rm", "built", "cat", "/made").stdout == "made\n"
    lab.run(DOCKER, "rmi", "built")


@pytest.mark.requires("docker-compose")
def test_compose_builds_and_runs(lab, tmp_path) -> None:
    """Its builds are BuildKit's protocol, by /grpc and /session."""
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nCOPY file /\nRUN --mount=type=secret,id=word cp /run/secrets/word /word\n"
    )
    (tmp_path / "file").write_bytes(random.Random(5).randbytes(1_000_000))
    (tmp_path / "word").write_text("secret")
    (tmp_path / "compose.yaml").write_text(
        "name: private\nsecrets: {word: {file: ./word}}\nservices:\n  a:\n"
        "    build: {context: ., secrets: [word]}\n    command: cat /word\n    network_mode: none\n"
    )
    done = lab.run(COMPOSE, "up", "--build", cwd=tmp_path)
    assert re.search(r"a-1\s+\| secret", done.stdout), done.stdout
    lab.run(COMPOSE, "down", "--rmi", "local", cwd=tmp_path)


def test_docker_py(lab) -> None:
    script = """
import docker, os
client = docker.from_env()
box = client.containers.run("busybox", "cat", stdin_open=True, detach=True)
sock = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
sock.write(b"by docker-py") if hasattr(sock, "write") else sock.send(b"by docker-py")
print(sock.read(8 + 12)[8:].decode())
sock.close()
print(box.exec_run("echo exec").output.decode(), end="")
box.kill()
box.remove()
print(client.containers.run("busybox", ["sh", "-c", "head -c 3000000 /dev/zero"], remove=True) == bytes(3000000))
"""
    assert lab.run(sys.executable, "-c", script).stdout == "by docker-py\nexec\nTrue\n"


def test_orlop_client_of_python(lab) -> None:
    script = """
import sys
from orlop.client import Tls, connect
with connect(sys.argv[1], tls=Tls(authority=sys.argv[2] + "/ca.pem", certificate=sys.argv[2] + "/cert.pem",
                                  key=sys.argv[2] + "/key.pem"), timeout=20) as client:
    print(client.system.info()["ServerVersion"])
with connect() as client:
    print([image["RepoTags"] for image in client.images.list()])
"""
    done = lab.run(
        sys.executable, "-c", script, ADDRESS, lab.material.client, env={"DOCKER_TLS_VERIFY": ""}, check=False
    )
    assert "Client sent an HTTP request to an HTTPS server" in done.stderr
    assert (
        lab.run(sys.executable, "-c", script, ADDRESS, lab.material.client)
        .stdout.splitlines()[1]
        .count("busybox:latest")
        == 1
    )


@CLIENTS
def test_flags_and_contexts(lab, program, tmp_path) -> None:
    plain = {"DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": "", "DOCKER_HOST": None}
    files = lab.material.client
    assert lab.run(program, "-H", ADDRESS, *tls_flags(files), "version", env=plain).returncode == 0
    named = f"host={ADDRESS},ca={files}/ca.pem,cert={files}/cert.pem,key={files}/key.pem"
    home = {**plain, "DOCKER_CONFIG": str(tmp_path)}
    lab.run(DOCKER, "context", "create", "private", "--docker", named, env=home)
    assert lab.run(program, "--context", "private", "version", env=home).returncode == 0
    lab.run(DOCKER, "context", "create", "lax", "--docker", f"{named},skip-tls-verify=true", env=home)
    assert lab.run(program, "version", env={**home, "DOCKER_CONTEXT": "lax"}).returncode == 0


@CLIENTS
def test_who_does_not_show_a_good_certificate_gets_nothing(lab, program, tmp_path) -> None:
    stranger, good = lab.material.stranger, lab.material.client
    foreign = {"DOCKER_TLS_VERIFY": ""}
    authority = ("--tlsverify", "--tlscacert", good / "ca.pem")
    nobody = lab.run(program, *authority, "ps", env={**foreign, "DOCKER_CERT_PATH": str(tmp_path)}, check=False)
    assert nobody.returncode == 1
    assert "remote error: tls: certificate required" in nobody.stderr
    flags = (*authority, "--tlscert", stranger / "cert.pem", "--tlskey", stranger / "key.pem")
    other = lab.run(program, *flags, "run", "-d", "busybox", "sleep", "1", env=foreign, check=False)
    assert other.returncode == 125
    assert re.search("remote error: tls: (unknown certificate authority|bad certificate)", other.stderr), other.stderr
    plain = lab.run(program, "ps", env={**foreign, "DOCKER_CERT_PATH": ""}, check=False)
    assert plain.returncode == 1
    assert "Client sent an HTTP request to an HTTPS server." in plain.stderr
    assert lab.run(DOCKER, "ps", "-aq").stdout == ""
    assert "TLS handshake error from 127.0.0.1:" in lab.engine.log_text()


@CLIENTS
def test_client_makes_sure_of_the_engine(lab, program, tmp_path) -> None:
    wrong = lab.run(program, "--tlscacert", lab.material.stranger / "ca.pem", "ps", check=False)
    assert wrong.returncode == 1
    assert "x509: certificate signed by unknown authority" in wrong.stderr  # Debian 12's client says no more
    # by an address that the certificate does not name
    lab.engine.in_network("ip", "addr", "add", "127.0.0.9/8", "dev", "lo", check=False)
    missing = lab.run(program, "--tlscacert", tmp_path / "none", "ps", check=False)
    assert missing.returncode == 1
    assert f"unable to resolve docker endpoint: open {tmp_path}/none: no such file or directory" in missing.stderr


def test_name_that_the_certificate_does_not_have(lab, tmp_path) -> None:
    engine = make_engine("--host", f"tcp://127.0.0.1:{PORT}", *tls_flags(lab.material.elsewhere))
    try:
        for program in (DOCKER, BIN / "orlop"):
            environment = tls_environment(engine, lab.material.client)
            done = engine.in_network(program, "ps", env=environment, check=False)
            assert done.returncode == 1
            assert re.search("x509: .*127.0.0.1", done.stderr), done.stderr
            lax = engine.in_network(
                *(program, "--tls", "--tlsverify=false", "ps", "-q"),
                env={**environment, "DOCKER_TLS_VERIFY": ""},
            )
            assert lax.stdout == ""
    finally:
        engine.destroy()


def test_garbage_and_slow_handshakes_disturb_nobody(lab) -> None:
    attack = f"""
import os, socket, time
slow = []
for _ in range(600):
    s = socket.create_connection(("127.0.0.1", {PORT}))
    s.send(b"\\x16\\x03\\x01\\x02\\x00\\x01")
    slow.append(s)
for i in range(300):
    s = socket.create_connection(("127.0.0.1", {PORT}))
    try:
        s.sendall(os.urandom(1 + i * 37) if i % 2 else b"\\x16\\x03\\x03" + os.urandom(i * 11))
    except OSError:
        pass
    s.close()
print("done", flush=True)
time.sleep(60)
"""
    attacker = lab.start(sys.executable, "-c", attack, stdout=subprocess.PIPE)
    try:
        assert attacker.stdout.readline() == b"done\n"
        for _ in range(5):
            assert lab.run(DOCKER, "run", "--rm", "busybox", "echo", "still here").stdout == "still here\n"
        held = len(os.listdir(f"/proc/{lab.engine.process.pid}/fd"))
        assert held < 450, "descriptors of more strangers than are borne"
        wait_for(lambda: lab.joined() < 10, seconds=20, what="end of the slow handshakes")
    finally:
        attacker.kill()
        attacker.wait()
        attacker.stdout.close()


def test_out_of_descriptors(lab) -> None:
    """R19 of faults.md: the engine tries again once a second, and goes on when there are descriptors again."""
    engine = lab.engine
    pid, before = engine.process.pid, resource.prlimit(engine.process.pid, resource.RLIMIT_NOFILE)
    crowd = f"""
import socket, sys
clients = [socket.create_connection(("127.0.0.1", {PORT})) for _ in range(40)]
print("there", flush=True)
sys.stdin.read()
"""
    refusals = lambda: engine.log_text()[logged:].count("connection by TLS cannot be accepted")  # noqa: E731
    logged = len(engine.log_text())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 10, before[1]))
    clients = lab.start(sys.executable, "-c", crowd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert clients.stdout.readline() == b"there\n"
        wait_for(refusals, what="word of the first client that could not be let in")
        began, worked, told = time.monotonic(), cpu_ticks(pid), refusals()
        wait_for(lambda: refusals() >= told + 2, what="two more tries")
        seconds = time.monotonic() - began
        assert refusals() - told <= seconds + 1, "more tries than seconds"
        assert cpu_ticks(pid) - worked < 10 + 10 * seconds, "busy while it waits"
        assert len(engine.log_text()) - logged < 20_000
    finally:
        clients.communicate(timeout=20 * PATIENCE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert lab.run(DOCKER, "run", "--rm", "busybox", "echo", "on").stdout == "on\n"


def cpu_ticks(pid: int) -> int:
    """Return hundredths of a second."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_clients_that_vanish_before_the_start_keep_nobody_out(lab) -> None:
    attach = """
import socket, sys
from orlop.tls.material import client_context
authority, certificate, key = (f"{sys.argv[1]}/{name}.pem" for name in ("ca", "cert", "key"))
context = client_context(authority=authority, certificate=certificate, key=key)
for _ in range(40):
    with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as sock:
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as client:
            client.sendall(b"POST /v1.45/containers/box/attach?stream=1&stdout=1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            head = client.recv(65536)
            assert head.startswith(b"HTTP/1.1 200 OK\\r\\n"), head
"""
    lab.run(DOCKER, "create", "--name", "box", "--network", "none", "busybox", "echo", "said")
    lab.run(sys.executable, "-c", attach, lab.material.client, PORT)
    assert lab.run(DOCKER, "start", "-a", "box").stdout == "said\n"


def test_engine_that_is_killed_loses_only_the_connections(lab) -> None:
    lab.run(DOCKER, "run", "-d", "--name", "box", "busybox", "sh", "-c", "while :; do echo line; sleep 0.1; done")
    client = lab.start(DOCKER, "logs", "-f", "box", stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"line\n"
    lab.engine.kill()
    client.communicate(timeout=20 * PATIENCE)
    lab.engine.start()
    assert lab.engine.inspect("box")["State"]["Running"]
    assert "line" in lab.run(DOCKER, "logs", "--tail", "1", "box").stdout


def test_settings(lab, tmp_path) -> None:
    """What orlopd says of them, at --validate too, and what ``docker info`` warns of."""

    def validate(*words, document=None):
        path = tmp_path / "daemon.json"
        path.write_text(json.dumps(document or {}))
        command = [BIN / "orlopd", "--validate", "--config-file", path, *words]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    server = lab.material.server
    file = {
        "tlsverify": True,
        "hosts": ["tcp://"],
        "tlscacert": f"{server}/ca.pem",
        "tlscert": f"{server}/cert.pem",
        "tlskey": f"{server}/key.pem",
    }
    assert validate(document=file).stdout == "configuration OK\n"
    assert "tlskey: (from flag: x, from file: " in validate("--tlskey", "x", document=file).stderr
    wrong = validate(document={**file, "tlskey": f"{lab.material.client}/key.pem"})
    assert wrong.returncode == 1
    assert "invalid TLS configuration: Error reading X509 key pair" in wrong.stderr
    assert "tls: private key does not match public key" in wrong.stderr
    # Docker's default paths
    assert f'(cert: "{tmp_path}/.docker/cert.pem"' in validate("--tlsverify").stderr
    (tmp_path / ".docker").symlink_to(server)
    assert validate("--tlsverify", "-H", "tcp://0.0.0.0").stdout == "configuration OK\n"
    # tls alone demands client certificates, as in dockerd
    (tmp_path / "ca").write_text("")
    assert "failed to append certificates" in validate("--tls", "--tlscacert", str(tmp_path / "ca")).stderr
    assert "refusing to listen on TCP without TLS" in validate("-H", "tcp://127.0.0.1:1").stderr
    assert validate("-H", "tcp://127.0.0.1:1", "--tls=false").stdout == "configuration OK\n"
    assert validate("-H", "tcp://127.0.0.1:1", "--tlsverify=false").stdout == "configuration OK\n"
    assert "conflicting options" in validate("--tls", "--tcp-without-tls").stderr


def test_warnings(lab) -> None:
    assert "API is accessible" not in lab.run(DOCKER, "info").stderr
    for flags, words in (
        (("--tls=false",), f"API is accessible on http://127.0.0.1:{PORT} without encryption."),
        (
            ("--tlsverify=false", *tls_flags(lab.material.server)[1:]),
            f"API is accessible on https://127.0.0.1:{PORT} without TLS client verification.",
        ),
    ):
        engine = make_engine("--host", ADDRESS, *flags)
        try:
            assert words in engine.log_text()
            warnings = json.loads(engine.http("GET", "/info")[1])["Warnings"]
            assert words in warnings[0]
        finally:
            engine.destroy()
