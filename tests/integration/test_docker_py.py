"""What docker-py sends that the docker client does not: nulls, its own spelling, a stream without a terminal's form."""

import contextlib
import socket
import time

import pytest

from harness import PATIENCE, wait_for

docker = pytest.importorskip("docker")
pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.fixture
def client(engine):
    with contextlib.closing(docker.APIClient(base_url=engine.host, timeout=30 * PATIENCE)) as client:
        yield client


@pytest.fixture
def running(client):
    container = client.create_container("busybox", "cat", stdin_open=True, detach=True)["Id"]
    client.start(container)
    yield container
    client.remove_container(container, force=True)


def test_a_health_check_with_nothing_but_a_command(client):
    container = client.create_container("busybox", "sleep 100", healthcheck={"test": "true"})["Id"]
    client.start(container)
    health = lambda: client.inspect_container(container)["State"]["Health"]["Status"] == "healthy"  # noqa: E731
    wait_for(health, what="healthy")
    client.remove_container(container, force=True)


def test_a_network_with_nothing_but_a_subnet(client):
    types = docker.types
    pools = [types.IPAMPool(subnet="10.213.0.0/24"), types.IPAMPool(subnet="fd13:0::/64", iprange="fd13:0::0/96")]
    network = client.create_network("from-python", ipam=types.IPAMConfig(pool_configs=pools), enable_ipv6=True)["Id"]
    config = client.inspect_network(network)["IPAM"]["Config"]
    assert [pool["Subnet"] for pool in config] == ["10.213.0.0/24", "fd13::/64"]
    client.remove_network(network)


def test_the_start_says_what_the_stream_of_an_exec_looks_like(client, running):
    command = ["sh", "-c", "tty; echo e >&2"]
    made = lambda tty: client.exec_create(running, command, tty=tty)["Id"]  # noqa: E731
    assert client.exec_start(made(tty=True)) == b"/dev/pts/0\r\ne\r\n"  # in frames, which docker-py takes off
    assert client.exec_start(made(tty=True), tty=True) == b"/dev/pts/0\r\ne\r\n"
    assert client.exec_start(made(tty=False), demux=True) == (b"not a tty\n", b"e\n")


def test_detach_keys_of_an_exec_as_docker_py_spells_them(client, running):
    execution = client.exec_create(running, "cat", stdin=True, tty=True, detach_keys="ctrl-a")["Id"]
    stream = client.exec_start(execution, tty=True, socket=True)
    with contextlib.closing(stream), contextlib.closing(stream._sock):
        stream._sock.settimeout(10 * PATIENCE)
        stream._sock.sendall(b"x\n")
        received = b""
        while received.count(b"x") < 2:  # the terminal's, and cat's
            received += stream._sock.recv(100)
        stream._sock.sendall(b"\x01")
        while stream._sock.recv(100):
            pass
    assert client.exec_inspect(execution)["Running"]


def test_an_address_is_shown_before_the_start(client):
    container = client.create_container("busybox", "true", mac_address="02:42:ac:11:00:42")
    document = client.inspect_container(container)
    assert document["Config"]["MacAddress"] == "02:42:ac:11:00:42"
    settings = document["NetworkSettings"]
    assert settings["Networks"]["bridge"]["MacAddress"] == settings["MacAddress"] == "02:42:ac:11:00:42"
    client.remove_container(container)
    with pytest.raises(docker.errors.APIError, match="invalid MAC address"):
        client.create_container("busybox", "true", mac_address="x")


def test_what_ends_meanwhile_is_committed_all_the_same(client):
    for _ in range(10):
        container = client.create_container("busybox", "touch /made")["Id"]
        client.start(container)
        image = client.commit(container)["Id"]
        client.remove_container(container, force=True)
        client.remove_image(image)


def answer_to_a_slow_reader(engine, path, body):
    """Return the head of what the engine answers, what comes after it, and in how many seconds the head was read."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10 * PATIENCE)
        raw.connect(str(engine.socket))
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        began = time.monotonic()
        raw.sendall(head.encode() + body)
        assert raw.recv(1, socket.MSG_PEEK) == b"H"
        time.sleep(0.3)  # a client that is slow, or on a busy machine
        head = raw.recv(65536)
        taken = time.monotonic() - began
        received = b""
        while data := raw.recv(65536):
            received += data
        return head, received, taken


@pytest.mark.parametrize("what", ["exec", "attach"])
def test_output_comes_after_the_head_was_read(engine, client, running, what):
    """docker-py loses bytes that arrive together with the head."""
    if what == "attach":
        stream = client.attach_socket(running, {"stdin": 1, "stream": 1})
        with contextlib.closing(stream), contextlib.closing(stream._sock):
            stream._sock.sendall(b"hi\n")
        wait_for(lambda: client.logs(running), what="log")

    def asked():
        if what == "exec":
            return f"/v1.45/exec/{client.exec_create(running, 'echo hi', tty=True)['Id']}/start", b'{"Tty": true}'
        return f"/v1.45/containers/{running}/attach?logs=1&stdout=1", b""

    for _ in range(5 * PATIENCE):
        head, received, taken = answer_to_a_slow_reader(engine, *asked())
        if taken < 1:  # for which the engine waits, and not for ever; a busy machine may hold the test up
            break
    assert head.endswith(b"\r\n\r\n")
    assert received == (b"hi\r\n" if what == "exec" else b"\x01\0\0\0\0\0\0\x03hi\n")
