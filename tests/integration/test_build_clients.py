"""Clients that speak BuildKit's protocol are told what to set; older ones find what they look for in an image."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from orlop.api.no_buildkit import MESSAGE

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\1\1\4\0\0\0\1\x82"
PLUGINS = [Path(path) for path in ("/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins")]
PLUGINS += [Path(os.environ.get("ORLOP_CLI_PLUGINS", "/nowhere"))]


@pytest.mark.parametrize("early", [True, False], ids=["with the request", "after the answer"])
def test_a_call_of_buildkit_is_refused_in_words(engine, early):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(engine.socket))
        head = b"POST /v1.44/grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        client.sendall(head + HELLO * early)
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101 ")
        if not early:
            client.sendall(HELLO)
        while MESSAGE.encode() not in answer:
            piece = client.recv(4096)
            assert piece, answer
            answer += piece


def test_without_an_upgrade_there_is_an_ordinary_error(engine):
    for path in ("/grpc", "/session"):
        status, body = engine.http("POST", path)
        assert (status, json.loads(body)) == (400, {"message": "no upgrade proto in request"})


def test_buildx_says_what_to_set(engine, tmp_path):
    found = [path / "docker-buildx" for path in PLUGINS if (path / "docker-buildx").exists()]
    if not found:
        pytest.skip("no docker-buildx; ORLOP_CLI_PLUGINS names a directory")
    (tmp_path / "config/cli-plugins").mkdir(parents=True)
    shutil.copy(found[0], tmp_path / "config/cli-plugins")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    environment = {**engine.environment, "DOCKER_CONFIG": str(tmp_path / "config")}
    done = engine.docker("build", str(tmp_path), check=False, env=environment)
    assert done.returncode == 1
    assert MESSAGE in done.stderr
    done = engine.docker("build", "-q", str(tmp_path), env={**environment, "DOCKER_BUILDKIT": "0"})
    assert done.stdout.startswith("sha256:")


def test_images_tell_older_clients_of_their_containers(engine):
    # Compose 1 asks for the volumes there when it makes a container anew; Docker leaves it out since 1.45, too
    for version, there in (("1.24", True), ("1.44", True), ("1.45", False)):
        document = json.loads(engine.http("GET", f"/v{version}/images/busybox/json")[1])
        assert ("ContainerConfig" in document, "Container" in document) == (there, there)
        assert not there or document["ContainerConfig"]["Volumes"] is None
