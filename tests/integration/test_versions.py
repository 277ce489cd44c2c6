"""Old and new API versions: the docker client held to each, docker-py, and the shapes that clients of the time knew."""

import json
import socket

import pytest

from harness import PATIENCE

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.41", "1.44", "1.47", "1.50"])
def test_docker_client_held_to_a_version(engine, version):
    held = {"DOCKER_API_VERSION": version}

    def docker(*arguments, **options):
        return engine.docker(*arguments, env=held, **options)

    assert docker("version", "--format", "{{.Client.APIVersion}} {{.Server.Version}}").stdout.split()[0] == version
    assert docker("run", "-i", "--rm", "busybox", "cat", input="through").stdout == "through"
    docker("run", "-d", "--name", "old", "-p", "18090:80", "-v", "/data", "busybox", "sleep", "100")
    done = docker("exec", "old", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert docker("ps", "--format", "{{.Names}} {{.Image}}").stdout == "old busybox\n"
    assert docker("inspect", "-f", "{{.State.Status}}", "old").stdout == "running\n"
    assert "sleep 100" in docker("top", "old").stdout
    assert docker("stats", "--no-stream", "--format", "{{.Name}}", "old").stdout == "old\n"
    docker("stop", "-t", "0", "old")
    assert docker("wait", "old").stdout == "137\n"
    docker("rm", "-v", "old")
    if version != "1.24":  # the client itself refuses it there
        assert docker("system", "df", "--format", "{{.Type}}").stdout.splitlines()[:2] == ["Images", "Containers"]
    assert docker("image", "inspect", "-f", "{{.Os}}", "busybox").stdout == "linux\n"


def test_an_unknown_version_is_refused_with_what_is_known(engine):
    assert engine.http("GET", "/v1.50/_ping")[0] == engine.http("GET", "/v1.24/_ping")[0] == 200
    status, body = engine.http("GET", "/v1.51/info")
    assert status == 400
    assert "client version 1.51 is too new. Maximum supported API version is 1.50" in json.loads(body)["message"]
    status, body = engine.http("GET", "/v1.23/info")
    assert status == 400
    assert "client version 1.23 is too old. Minimum supported API version is 1.24" in json.loads(body)["message"]


@pytest.mark.parametrize(
    ("version", "kind"), [("1.24", "raw-stream"), ("1.41", "raw-stream"), ("1.42", "multiplexed-stream")]
)
@pytest.mark.parametrize("upgrade", [True, False])
def test_hijacked_streams_say_what_the_version_knows(engine, version, kind, upgrade):
    body = {"Image": "busybox", "Cmd": ["echo", "hi"], "AttachStdout": True}
    container = json.loads(engine.http("POST", f"/v{version}/containers/create", body)[1])["Id"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10 * PATIENCE)
        client.connect(str(engine.socket))
        wish = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
        path = f"/v{version}/containers/{container}/attach?stream=1&stdout=1"
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{wish}\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(4096)
        engine.http("POST", f"/v{version}/containers/{container}/start")
        while data := client.recv(4096):
            received += data
    head, _, stream = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED" if upgrade else b"HTTP/1.1 200 OK")
    assert f"application/vnd.docker.{kind}".encode() in head
    assert stream == b"\x01\0\0\0\0\0\0\x03hi\n"


def test_docker_py_negotiates_and_is_held(engine):
    docker = pytest.importorskip("docker")
    for version in ("auto", "1.24", "1.43"):
        client = docker.DockerClient(base_url=engine.host, version=version, timeout=20 * PATIENCE)
        try:
            assert client.ping()
            assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
            with pytest.raises(docker.errors.ContainerError) as failure:
                client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
            assert (failure.value.exit_status, failure.value.stderr) == (3, b"bad\n")
            container = client.containers.run(
                "busybox", ["sleep", "100"], detach=True, mem_limit="64m", cpu_shares=512, ports={"80/tcp": None}
            )
            assert container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True) == (4, (b"o\n", b"e\n"))
            container.reload()
            assert container.ports["80/tcp"][0]["HostPort"]
            assert container.attrs["HostConfig"]["Memory"] == 64 << 20
            assert container.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
            container.rename("renamed")
            assert [found.name for found in client.containers.list(filters={"name": "renamed"})] == ["renamed"]
            container.kill()
            assert container.wait()["StatusCode"] == 137
            assert container.logs() == b""
            container.remove()
            with pytest.raises(docker.errors.NotFound):
                client.containers.get("renamed")
            with pytest.raises(docker.errors.ImageNotFound):
                client.images.get("no-such-image")
        finally:
            client.close()
