"""Clients that speak BuildKit's protocol build without any setting: Compose, and the docker client with buildx."""

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from harness import COMPOSE, DOCKER, PATIENCE, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

PLUGINS = [Path(os.environ.get("ORLOP_CLI_PLUGINS", "/nowhere"))]
PLUGINS += [Path(path) for path in ("/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins")]
PROJECT = """name: clients
services:
  a:
    build: {context: ., args: {WHO: compose}}
    image: clients:a
    network_mode: none
"""


def test_without_an_upgrade_there_is_an_ordinary_error(engine):
    for path in ("/grpc", "/session"):
        status, body = engine.http("POST", path)
        assert (status, json.loads(body)) == (400, {"message": "no upgrade proto in request"})


def test_another_protocol_is_refused(engine):
    for path in (b"/v1.44/grpc", b"/session"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20 * PATIENCE)
            client.connect(str(engine.socket))
            client.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" % path)
            answer = b""
            while b"protocol tcp not supported" not in answer:
                piece = client.recv(4096)
                assert piece, answer
                answer += piece
        assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.fixture
def project(tmp_path):
    """A Compose project, which is a context as well."""
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS first\nARG WHO\nRUN echo for $WHO > /made\n"
        "FROM busybox\nARG WHO\nENV WHO=$WHO\nLABEL who=$WHO\nCOPY --from=first /made /made\nCOPY file /\nCMD echo of $WHO\n"
    )
    (tmp_path / "file").write_text("content")
    (tmp_path / "ignored").write_text("x" * 100_000)
    (tmp_path / ".dockerignore").write_text("ignored\nconfig\n")
    (tmp_path / "compose.yaml").write_text(PROJECT)
    (tmp_path / "config/cli-plugins").mkdir(parents=True)
    return tmp_path


def environment_of(engine, project):
    environment = {**engine.environment, "DOCKER_CONFIG": str(project / "config")}
    environment.pop("DOCKER_BUILDKIT", None)
    return environment


def run(engine, project, *command, **options):
    """Run a client in the project without settings of its own."""
    return subprocess.run(
        list(map(str, command)),
        cwd=project,
        env=environment_of(engine, project),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


def image_of(engine, name):
    return json.loads(engine.docker("image", "inspect", name).stdout)[0]


@pytest.mark.requires("docker-compose")
class TestCompose:
    def test_builds(self, engine, images, project):
        """What it makes runs, and comes from the cache the next time."""
        done = run(engine, project, COMPOSE, "build")
        assert done.returncode == 0, done.stderr
        image = image_of(engine, "clients:a")
        assert image["Config"]["Labels"]["who"] == "compose"
        assert engine.docker("run", "--rm", "clients:a", "cat", "/made", "/file").stdout == "for compose\ncontent"
        try:
            done = run(engine, project, COMPOSE, "up", "--build", "--no-color")
            assert (done.returncode, "of compose" in done.stdout) == (0, True), done.stderr
            assert done.stdout.count("CACHED") == 3
            assert image_of(engine, "clients:a")["Id"] == image["Id"]
        finally:
            run(engine, project, COMPOSE, "down")

    def test_shows_steps_as_buildkit_has_them(self, engine, images, project):
        (project / "Dockerfile").write_text(f"FROM busybox\nRUN echo out {project}; echo err >&2\nCMD x\nCOPY file /\n")
        done = run(engine, project, COMPOSE, "build")
        assert done.returncode == 0, done.stderr
        shown = [line.partition(" ")[2] for line in done.stdout.splitlines() if "] " in line]
        # the client tells again of which step it is when it goes from one that takes its time to another and back
        shown = list(dict.fromkeys(shown))
        shown.remove("[a internal] load build context")  # which comes while other steps run
        assert shown == [
            "[a internal] load build definition from Dockerfile",
            "[a internal] load .dockerignore",
            "[a 1/3] FROM docker.io/library/busybox:latest",
            f"[a 2/3] RUN echo out {project}; echo err >&2",
            "[a 3/3] COPY file /",
            "[a] exporting to image",
            "[a] resolving provenance for metadata file",  # there is none; clients look for it in the history
        ]
        assert f" out {project}\n" in done.stdout
        assert " err\n" in done.stdout

    def test_tells_why_a_build_failed(self, engine, images, project):
        (project / "Dockerfile").write_text("FROM busybox\nRUN echo last words; exit 3\n")
        done = run(engine, project, COMPOSE, "build")
        assert done.returncode == 1
        message = 'process "/bin/sh -c echo last words; exit 3" did not complete successfully: exit code: 3'
        assert f"failed to solve: {message}" in done.stderr
        assert f"ERROR: {message}" in done.stdout + done.stderr
        assert engine.docker("ps", "-aq").stdout == ""


@pytest.fixture
def buildx(project):
    """Install buildx for this project, or skip."""
    found = [path / "docker-buildx" for path in PLUGINS if (path / "docker-buildx").exists()]
    if not found:
        pytest.skip("no docker-buildx; ORLOP_CLI_PLUGINS names a directory")
    shutil.copy(found[0], project / "config/cli-plugins")


@pytest.mark.usefixtures("buildx")
class TestBuildx:
    def test_builds_without_any_setting(self, engine, images, project):
        done = run(engine, project, DOCKER, "build", "-t", "one:a", "-t", "two", "--build-arg", "WHO=me", ".")
        assert done.returncode == 0, done.stderr
        image = image_of(engine, "one:a")
        assert image["Config"]["Env"][-1] == "WHO=me"
        assert sorted(image["RepoTags"]) == ["one:a", "two:latest"]
        assert "[stage-1 2/3] COPY --from=first /made /made" in done.stderr
        assert f"writing image {image['Id']}" in done.stderr

    def test_quiet_and_files_for_programs(self, engine, images, project):
        done = run(
            engine,
            project,
            DOCKER,
            "build",
            "-q",
            "--iidfile",
            "id",
            "--metadata-file",
            "meta",
            "-t",
            "q",
            "--target=first",
            ".",
        )
        image = image_of(engine, "q")["Id"]
        assert (done.stdout, done.stderr) == (f"{image}\n", "")
        assert (project / "id").read_text() == image
        metadata = json.loads((project / "meta").read_text())
        assert metadata["containerimage.config.digest"] == image
        assert metadata["image.name"] == "docker.io/library/q:latest"

    def test_a_dockerfile_from_standard_input(self, engine, images, project):
        text = "FROM busybox\nCOPY file /\nRUN cat /file\n"
        done = run(engine, project, DOCKER, "build", "--progress=plain", "-f", "-", ".", input=text)
        assert (done.returncode, " content\n" in done.stderr) == (0, True), done.stderr
        done = run(engine, project, DOCKER, "build", "-q", "-", input="FROM busybox\nRUN true\n")
        assert done.returncode == 0, done.stderr

    def test_the_line_that_failed_is_shown(self, engine, images, project):
        for text, shown in (
            ("FROM busybox\nRUN true\nRUN exit 7\n", ">>> RUN exit 7"),
            ("FROM busybox\nRUN1 true\n", ">>> RUN1 true"),
            ("FROM busybox\nCOPY nothing /\n", ">>> COPY nothing /"),
        ):
            (project / "Dockerfile").write_text(text)
            done = run(engine, project, DOCKER, "build", ".")
            assert (done.returncode, shown in done.stderr) == (1, True), done.stderr
            assert "failed to solve: " in done.stderr

    def test_a_client_that_leaves_ends_its_build(self, engine, images, project):
        (project / "Dockerfile").write_text("FROM busybox\nRUN sleep 1000\n")
        command = [DOCKER, "build", "."]
        with subprocess.Popen(
            command, cwd=project, env=environment_of(engine, project), stderr=subprocess.DEVNULL
        ) as client:
            wait_for(lambda: engine.docker("ps", "-q").stdout)
            client.send_signal(signal.SIGKILL)
        wait_for(lambda: not engine.docker("ps", "-aq").stdout)

    def test_two_at_once(self, engine, images, project):
        command = [DOCKER, "build", "-q", "--no-cache", "."]
        options = {"cwd": project, "env": environment_of(engine, project), "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **options) as first, subprocess.Popen(command, **options) as second:
            assert [client.wait(100) for client in (first, second)] == [0, 0]

    def test_bake_builds_what_is_made_of_one_another(self, engine, images, project):
        (project / "docker-bake.hcl").write_text(
            'group "default" { targets = ["base", "b"] }\n'
            'target "base" {\n dockerfile-inline = "FROM busybox\\nRUN echo base > /base"\n tags = ["bake:base"]\n}\n'
            'target "b" {\n contexts = { base = "target:base" }\n tags = ["bake:b"]\n'
            ' dockerfile-inline = "FROM base\\nRUN cat /base"\n}\n'
        )
        done = run(engine, project, DOCKER, "buildx", "bake", "-f", "docker-bake.hcl", "--progress=plain")
        assert done.returncode == 0, done.stderr
        base, made = image_of(engine, "bake:base"), image_of(engine, "bake:b")
        assert made["RootFS"]["Layers"][: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]

    def test_check_and_what_else_can_be_asked(self, engine, project):
        if run(engine, project, DOCKER, "build", "--help").stdout.count("--check") == 0:
            pytest.skip("this buildx knows no --check")
        (project / "Dockerfile").write_text("FROM busybox AS first\nARG A=1\nfrom first\nMAINTAINER me\n")
        done = run(engine, project, DOCKER, "build", "--check", ".")
        assert (done.returncode, "MaintainerDeprecated" in done.stdout) == (1, True), done.stderr
        assert ">>> MAINTAINER me" in done.stdout
        assert "load build context" not in done.stderr
        done = run(engine, project, DOCKER, "build", "--call=targets,format=json", ".")
        assert [(one["name"], one["base"]) for one in json.loads(done.stdout)["targets"] if "name" in one] == [
            ("first", "busybox")
        ]
        done = run(engine, project, DOCKER, "build", "--call=outline,format=json", "--target=first", ".")
        assert [(one["name"], one["value"]) for one in json.loads(done.stdout)["args"]] == [("A", "1")]

    def test_the_cache(self, engine, images, project):
        run(engine, project, DOCKER, "builder", "prune", "-af", "--filter=type=regular")
        assert run(engine, project, DOCKER, "build", "-q", "--target=first", ".").returncode == 0
        done = run(engine, project, DOCKER, "buildx", "du", "--verbose")
        assert (done.returncode, done.stdout.count("echo for")) == (0, 1), done.stderr
        done = run(engine, project, DOCKER, "buildx", "prune", "-f", "--filter=type=source.local")
        assert (done.returncode, "contexts" in done.stdout) == (0, True), done.stderr
        done = run(engine, project, DOCKER, "buildx", "prune", "-f")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 4), done.stdout  # head, ARG, RUN, total
        assert "echo for" not in run(engine, project, DOCKER, "buildx", "du", "--verbose").stdout

    @pytest.mark.requires("docker-compose")
    def test_compose_builds_through_bake(self, engine, images, project):
        """With the plugin in reach, Compose has ``docker buildx bake`` build."""
        version = run(engine, project, DOCKER, "buildx", "version").stdout.split()[1].split(".")
        if (int(version[0].lstrip("v")), int(version[1])) < (0, 17):
            pytest.skip("Compose wants buildx 0.17")
        done = run(engine, project, COMPOSE, "build")
        assert (done.returncode, "using Bake" in done.stderr) == (0, False), done.stderr
        assert image_of(engine, "clients:a")["Config"]["Labels"]["who"] == "compose"

    def test_what_the_builder_is(self, engine, project):
        done = run(engine, project, DOCKER, "buildx", "inspect")
        assert done.returncode == 0, done.stderr
        assert "running" in done.stdout
        assert "linux/amd64" in done.stdout

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--platform=linux/s390x"], "building for another platform is not supported: linux/s390x"),
            (["--platform=linux/amd64,linux/386"], ""),  # newer clients say so themselves
        ],
    )
    def test_what_is_not_done_is_refused(self, engine, project, words, message):
        done = run(engine, project, DOCKER, "build", *words, ".")
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_images_tell_older_clients_of_their_containers(engine):
    # Compose 1 asks for the volumes there when it makes a container anew; Docker leaves it out since 1.45, too
    for version, there in (("1.24", True), ("1.44", True), ("1.45", False)):
        document = json.loads(engine.http("GET", f"/v{version}/images/busybox/json")[1])
        assert ("ContainerConfig" in document, "Container" in document) == (there, there)
        assert not there or document["ContainerConfig"]["Volumes"] is None
