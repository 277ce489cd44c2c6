"""Clients that speak BuildKit's protocol are told what to set; older ones find what they look for in an image; Compose."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from altering_relay import AlteringRelay

from harness import COMPOSE, DOCKER
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


@pytest.fixture
def project(tmp_path):
    """A Compose project, which is a context as well."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG WHO\nENV WHO=$WHO\nLABEL who=$WHO\nCMD echo of $WHO\n")
    service = "build: {context: ., args: {WHO: compose}}\n    image: clients:a\n    network_mode: none"
    (tmp_path / "compose.yaml").write_text(f"name: clients\nservices:\n  a:\n    {service}\n")
    (tmp_path / "config/cli-plugins").mkdir(parents=True)
    return tmp_path


def run(engine, project, command, **variables):
    """Run a client in the project without settings of its own."""
    environment = {**engine.environment, "DOCKER_CONFIG": str(project / "config"), **variables}
    if not variables.get("DOCKER_BUILDKIT"):
        environment.pop("DOCKER_BUILDKIT", None)
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.requires("docker-compose")
def test_compose_builds(engine, images, project):
    """Compose 2 with the setting that it is told of; what it makes runs, and comes from the cache the next time."""
    done = run(engine, project, [COMPOSE, "build"], DOCKER_BUILDKIT="0")
    assert done.returncode == 0, done.stderr
    image = json.loads(engine.docker("image", "inspect", "clients:a").stdout)[0]
    assert image["Config"]["Labels"]["who"] == "compose"
    try:
        done = run(engine, project, [COMPOSE, "up", "--build", "--no-color"], DOCKER_BUILDKIT="0")
        assert (done.returncode, "of compose" in done.stdout) == (0, True), done.stderr
        assert json.loads(engine.docker("image", "inspect", "clients:a").stdout)[0]["Id"] == image["Id"]
    finally:
        run(engine, project, [COMPOSE, "down"])


@pytest.mark.requires("docker-compose")
@pytest.mark.parametrize("command", [["build"], ["up", "--build"]], ids=lambda command: command[0])
def test_compose_says_what_to_set(engine, images, project, command):
    done = run(engine, project, [COMPOSE, *command])
    assert (done.returncode, MESSAGE in done.stderr) == (1, True), done.stderr
    assert engine.docker("ps", "-aq").stdout == ""


def test_buildx_says_what_to_set(engine, images, project):
    plug_in(project, "docker-buildx")
    done = run(engine, project, [DOCKER, "build", "."])
    assert (done.returncode, MESSAGE in done.stderr) == (1, True)
    done = run(engine, project, [DOCKER, "build", "-q", "."], DOCKER_BUILDKIT="0")
    assert done.stdout.startswith("sha256:")


def plug_in(project, name):
    """Install a plugin of the docker client for this project, or skip."""
    found = [path / name for path in PLUGINS if (path / name).exists()]
    if not found:
        pytest.skip(f"no {name}; ORLOP_CLI_PLUGINS names a directory")
    shutil.copy(found[0], project / "config/cli-plugins")


def say(status, body=b'{"message": "no"}'):
    """Return a whole answer."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def with_header(name, value):
    """Return a function that puts a header in the place of an answer's own."""

    def change(head):
        first, rest = re.sub(rb"(?im)^%b: .*\r\n" % name, b"", head).split(b"\r\n", 1)
        return b"\r\n".join((first, *([b"%b: %b" % (name, value)] if value is not None else []), rest))

    return change


NO_GRPC = {"/grpc": say(b"404 Not Found")}
ANSWERS = {
    "as they are": ({}, bytes, "told"),
    "the classic builder is preferred": ({}, with_header(b"Builder-Version", b"1"), "told"),
    "there is no builder's version": ({}, with_header(b"Builder-Version", None), "told"),
    "an old API": ({}, with_header(b"Api-Version", b"1.24"), "told"),
    "an API without sessions": ({}, with_header(b"Api-Version", b"1.30"), "told"),
    "no information": ({"/info": say(b"500 Internal Server Error")}, bytes, "told"),
    "no version": ({"/version": say(b"404 Not Found")}, bytes, "failed"),
    "no gRPC": (NO_GRPC, bytes, "pulled"),
    "gRPC is not implemented": ({"/grpc": say(b"501 Not Implemented")}, bytes, "pulled"),
    "gRPC is closed": ({"/grpc": b""}, bytes, "pulled"),
    "neither gRPC nor sessions": ({**NO_GRPC, "/session": say(b"404 Not Found")}, bytes, "pulled"),
    "an engine of Windows": ({}, with_header(b"Ostype", b"windows"), "classic"),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "client",
    ["docker", pytest.param("compose", marks=pytest.mark.requires("docker-compose"))],
)
def test_no_true_answer_makes_a_client_fall_back(engine, images, project, client, answer):
    """With buildx in reach, clients choose BuildKit before they ask: only an engine of Windows gets the classic builder.

    If this fails with a newer client, there is an answer for ``/_ping`` or ``/grpc`` to be given.
    """
    if client == "docker":
        plug_in(project, "docker-buildx")
    answers, headers, outcome = ANSWERS[answer]
    with AlteringRelay(project / "socket", engine.socket, answers=answers, headers=headers) as relay:
        command = [DOCKER, "build", "."] if client == "docker" else [COMPOSE, "build"]
        done = run(engine, project, command, DOCKER_HOST=f"unix://{relay.path}")
        if outcome == "classic":
            # what that would cost: the client writes other requests, in which a device is not where it was wanted
            words = [DOCKER, "create", "--device=/dev/null:/dev/other", "busybox"]
            made = run(engine, project, words, DOCKER_HOST=f"unix://{relay.path}").stdout.strip()
            (device,) = json.loads(engine.docker("inspect", made).stdout)[0]["HostConfig"]["Devices"]
            assert (device["PathOnHost"], device["PathInContainer"]) == ("/dev/null:/dev/other", "")
    assert ("POST /build" in relay.requests) == (outcome == "classic"), done.stderr
    assert (done.returncode == 0) == (outcome == "classic"), done.stderr
    assert ("POST /images/create" in relay.requests) == (outcome == "pulled"), relay.requests
    assert (MESSAGE in done.stderr) == (outcome == "told"), done.stderr


def test_images_tell_older_clients_of_their_containers(engine):
    # Compose 1 asks for the volumes there when it makes a container anew; Docker leaves it out since 1.45, too
    for version, there in (("1.24", True), ("1.44", True), ("1.45", False)):
        document = json.loads(engine.http("GET", f"/v{version}/images/busybox/json")[1])
        assert ("ContainerConfig" in document, "Container" in document) == (there, there)
        assert not there or document["ContainerConfig"]["Volumes"] is None
