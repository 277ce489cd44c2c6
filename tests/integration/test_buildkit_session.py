"""What BuildKit's clients give to a build and take from it: files, secrets, agents, logins, outputs."""

import base64
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import tarfile

import pytest
from build_lab import write
from buildkit_lab import buildx_of, run, solve
from registry_lab import Registry

from fake_buildkit_client import FakeClient, file
from harness import COMPOSE, DOCKER, wait_for
from orlop.api.buildkit.control_messages import Exporter
from orlop.api.grpc.status import CallError

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox"),
]

SECRET = b"\0\xff"


@pytest.fixture
def project(tmp_path):
    return write(tmp_path / "project", "FROM busybox\nCOPY . /x\nRUN ls -A /x > /list; cat /list\n")


@pytest.fixture
def build(engine, images, project, tmp_path):
    """Return a function that builds the project with docker and buildx, and returns what was done."""
    config = buildx_of(tmp_path)

    def run_build(*words, code=0, **options):
        done = run(engine, project, config, DOCKER, "build", "--progress=plain", *(words or (".",)), **options)
        assert done.returncode == code, done.stderr
        return done

    return run_build


def transferred(done, what="context"):
    """Return how much of a directory came at last, as the client shows it; nothing for no byte."""
    return re.findall(rf"transferring {what}: (\S+B )?.*done", done.stderr)[-1].strip()


def in_image(engine, name, *command):
    return engine.docker("run", "--rm", "--network=none", name, *command).stdout


def test_only_changed_files_travel(engine, build, project):
    for name in ("big", "other"):
        (project / name).write_bytes(os.urandom(400_000))
        os.utime(project / name, ns=(10**18 + 5, 10**18 + 5))
    assert transferred(build()) == "800.05kB"
    (project / "other").write_bytes(b"x" * 10_000)
    done = build("-t", "changed", ".")
    assert transferred(done) == "10.00kB"
    assert in_image(engine, "changed", "sh", "-c", "wc -c < /x/big; wc -c < /x/other") == "400000\n10000\n"
    assert transferred(build()) == ""


def test_a_file_that_looks_the_same_is_asked_for_after_a_prune(engine, build, project):
    (project / "big").write_bytes(os.urandom(400_000))
    os.utime(project / "big", (1, 1))
    build()
    assert "Total" in engine.docker("builder", "prune", "-af").stdout
    assert transferred(build()) == "400.06kB"


def test_what_is_ignored_does_not_travel(engine, build, project):
    (project / "ignored").write_bytes(os.urandom(400_000))
    (project / "sub").mkdir()
    (project / "sub" / "kept").write_text("")
    (project / "sub" / "gone").write_bytes(os.urandom(400_000))
    (project / ".dockerignore").write_text("ignored\nsub\n!sub/kept\nDockerfile\n")
    done = build("-t", "ignoring", ".")
    assert not transferred(done).endswith(("kB", "MB"))
    assert in_image(engine, "ignoring", "sh", "-c", "cat /list; ls /x/sub") == ".dockerignore\nsub\nkept\n"
    (project / "Dockerfile.dockerignore").write_text("*\n!sub/gone\n")
    build("-t", "ignoring", ".")
    assert in_image(engine, "ignoring", "sh", "-c", "cat /list; ls /x/sub") == "sub\ngone\n"


def test_a_context_that_nothing_is_copied_of_stays_where_it_is(build, project):
    (project / "big").write_bytes(os.urandom(400_000))
    (project / "Dockerfile").write_text("FROM busybox AS used\nRUN true\nFROM busybox\nCOPY big /\n")
    done = build("--target", "used", ".")
    assert "load build context" not in done.stderr
    assert transferred(done, "dockerfile")


def test_a_dockerfile_elsewhere(engine, build, project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Other").write_text("FROM busybox\nCOPY file /\n")
    (tmp_path / "elsewhere" / "Other.dockerignore").write_text("*\n!file\n")
    (project / "file").write_text("here")
    build("-t", "elsewhere", "-f", "../elsewhere/Other", ".")
    assert in_image(engine, "elsewhere", "cat", "/file") == "here"
    build("-t", "elsewhere", "-f", "-", ".", input="FROM busybox\nCOPY file /in\n")
    assert in_image(engine, "elsewhere", "cat", "/in") == "here"
    done = build("-f", "nothing", ".", code=1)
    assert "nothing: no such file or directory" in done.stderr


def test_files_are_as_they_were(engine, build, project):
    (project / "Dockerfile").write_text("FROM busybox\nCOPY --from=other . /y\nCOPY . /x\nRUN chmod 0600 /x/mode\n")
    (project / "mode").write_text("#!")
    os.chmod(project / "mode", 0o4751)
    os.symlink("/etc/passwd", project / "link")
    os.mkfifo(project / "pipe")
    os.link(project / "mode", project / "same")
    (project / "empty").mkdir(mode=0o700)
    (project / "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve").write_text("x")
    other = project.parent / "other"
    write(other, "", file="y", **{".dockerignore": "Dockerfile\n"})
    build("-t", "files", "--build-context", f"other={other}", ".")
    found = in_image(
        engine, "files", "sh", "-c", "cd /x; stat -c '%A %u:%g %n' link pipe same empty na*; readlink link; ls -A /y"
    )
    assert found.splitlines() == [
        "lrwxrwxrwx 0:0 link",
        "prw-r--r-- 0:0 pipe",
        "-rwsr-x--x 0:0 same",
        "drwx------ 0:0 empty",
        "-rw-r--r-- 0:0 na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve",
        "/etc/passwd",
        ".dockerignore",
        "file",
    ]


def test_a_tar_on_standard_input(engine, build, project):
    (project / "file").write_text("from a tar")
    archive = subprocess.run(["tar", "cz", "-C", project, "."], capture_output=True, check=True).stdout
    build("-t", "tar", "-", input=archive, text=False)
    assert in_image(engine, "tar", "cat", "/x/file") == "from a tar"


def test_secrets(engine, build, project, tmp_path):
    (project / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN --mount=type=secret,id=one cat /run/secrets/one | md5sum > /sum\n"
        "RUN --mount=type=secret,id=two,env=TWO echo ${#TWO} > /length\n"
        "RUN --mount=type=secret,id=three test ! -e /run/secrets/three\n"
    )
    (tmp_path / "secret").write_bytes(SECRET)
    build("-t", "secrets", "--secret", f"id=one,src={tmp_path}/secret", "--secret", "id=two,env=TWO", ".", TWO="12345")
    assert in_image(engine, "secrets", "cat", "/sum", "/length") == f"{hashlib.md5(SECRET).hexdigest()}  -\n5\n"
    (project / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=secret,id=no,required=true true\n")
    done = build(code=1)
    assert "secret no: not found" in done.stderr


def test_an_agent(engine, images, build, project, agent, tmp_path):
    """A step's socket is the user's agent, of which the client lets nothing be changed."""
    (project / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && sleep 1000\n")
    environment = {**engine.environment, "DOCKER_CONFIG": str(tmp_path / "config"), "SSH_AUTH_SOCK": agent}
    command = [DOCKER, "build", "--ssh", "default", project]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as client:
        try:
            wait_for(lambda: engine.docker("ps", "-q").stdout, what="the step: its socket is listened on by then")
            [place] = [path for path in (engine.exec_root / "builds").rglob("*") if path.is_socket()]
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as step:
                    step.settimeout(20)
                    step.connect(str(place))
                    step.sendall(b"\0\0\0\x01\x0b")  # which keys there are
                    answer = b""
                    while len(answer) < 20:
                        answer += step.recv(1000)
                    assert answer[4:9] == b"\x0c\0\0\0\x01"
                    step.sendall(b"\0\0\0\x01\x13")  # remove them all
        finally:
            client.terminate()
    (project / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=ssh,required=true true\n")
    done = build(code=1)
    assert "unset ssh forward key default" in done.stderr


@pytest.fixture
def agent(tmp_path):
    """Return the socket of an SSH agent with one key."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL) as process:
        try:
            environment = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "agent")}
            add = lambda: subprocess.run(["ssh-add", "-q", key], env=environment, check=False)  # noqa: E731
            wait_for(lambda: add().returncode == 0, what="the agent")
            yield str(tmp_path / "agent")
        finally:
            process.terminate()


@pytest.mark.requires("docker-registry")
def test_a_login_is_asked_for_when_its_registry_is(engine, images, build, project, tmp_path):
    with Registry(engine, port=5011, htpasswd=True) as registry:
        name = f"{registry.host}/base:1"
        engine.docker("tag", "busybox", name)
        settings = tmp_path / "config/config.json"
        logins = {registry.host: {"auth": base64.b64encode(b"user:secret").decode()}}
        settings.write_text(json.dumps({"auths": logins}))
        assert run(engine, project, tmp_path / "config", DOCKER, "push", name).returncode == 0
        (project / "Dockerfile").write_text(f"FROM {name}\n")
        done = build()
        assert "sharing credentials" not in done.stderr  # the image is here
        engine.docker("rmi", name)
        done = build("-t", "private", ".")
        assert f"[auth] sharing credentials for {registry.host}" in done.stderr
        engine.docker("rmi", name)
        settings.write_text("{}")
        done = build("--no-cache", "--pull", ".", code=1)
        assert "no basic auth credentials" in done.stderr
        settings.write_text(json.dumps({"credHelpers": {registry.host: "broken"}}))
        done = build("--no-cache", "--pull", ".", code=1)
        assert f"failed to get credentials for {registry.host}: " in done.stderr


def test_outputs(engine, build, project, tmp_path):
    (project / "Dockerfile").write_text(
        "FROM busybox AS make\nRUN mkdir -p /o/sub && echo made > /o/sub/file && ln /o/sub/file /o/same && ln -s sub /o/link && chmod 4711 /o/same\n"
        "FROM scratch\nCOPY --from=make /o /\n"
    )
    build("--output", f"type=local,dest={tmp_path}/local", ".")
    assert (tmp_path / "local/sub/file").read_text() == "made\n"
    assert os.readlink(tmp_path / "local/link") == "sub"
    assert os.stat(tmp_path / "local/same").st_mode & 0o7777 == 0o4711
    build("--output", f"type=tar,dest={tmp_path}/files.tar", ".")
    with tarfile.open(tmp_path / "files.tar") as tar:
        assert sorted(tar.getnames()) == ["link", "same", "sub", "sub/file"]
    done = build("--output", "type=tar,dest=-", ".", text=False)
    assert b"sub/file" in done.stdout


async def test_outputs_of_a_client_that_wants_several(engine, images, tmp_path):
    """What the plugin allows with another driver only, and two outputs of one kind at the same time."""
    directories = {"context": {}, "dockerfile": {"Dockerfile": file(b"FROM busybox\nRUN echo made > /made\n")}}
    client = FakeClient(directories)
    taken = {}
    for number, kind in enumerate(("oci", "docker", "tar")):
        exporters = [Exporter(type="moby"), *(Exporter(type=kind, attributes={"name": "out:a"} if number < 2 else {}),)]
        answer = await solve(engine, client, exporters)
        taken[kind] = client.taken
        assert client.calls[-1][1]["buildkit-attachable-exporter-id"] == ["1"]
        assert answer["containerimage.digest"].startswith("sha256:")
    assert engine.docker("images", "-q", "out").stdout == ""
    with tarfile.open(fileobj=io.BytesIO(taken["oci"])) as tar:
        index = json.load(tar.extractfile("index.json"))
        assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "a"
    with tarfile.open(fileobj=io.BytesIO(taken["tar"])) as tar:
        assert "made" in tar.getnames()
    (tmp_path / "docker.tar").write_bytes(taken["docker"])
    assert "Loaded image: out:a" in engine.docker("load", "-i", str(tmp_path / "docker.tar")).stdout
    for exporter, message in (
        (Exporter(type="oci", attributes={"tar": "false"}), "not supported for output oci: tar=false"),
        (Exporter(type="local", attributes={"x": "1"}), "not supported for output local: x=1"),
        (Exporter(type="registry"), "exporter is not supported: registry"),
    ):
        with pytest.raises(CallError, match=message):
            await solve(engine, client, [exporter])


@pytest.mark.requires("docker-compose")
def test_compose_gives_what_a_build_needs(engine, images, project, tmp_path):
    write(
        project,
        "FROM busybox\nRUN --mount=type=secret,id=word cat /run/secrets/word > /word\nCOPY --from=more file /\nCOPY big /\n",
        **{
            "compose.yaml": "name: session\nservices:\n  a:\n    image: session:a\n    build:\n      context: .\n"
            "      secrets: [word]\n      additional_contexts: {more: ../more}\nsecrets: {word: {file: ../word}}\n",
            ".dockerignore": "compose.yaml\n",
        },
    )
    write(tmp_path / "more", "", file="of another context")
    (tmp_path / "word").write_text("secret")
    (project / "big").write_bytes(os.urandom(400_000))
    os.utime(project / "big", (1, 1))
    (tmp_path / "config").mkdir()
    for travels in (True, False):
        done = run(engine, project, tmp_path / "config", COMPOSE, "--progress=plain", "build")
        assert done.returncode == 0, done.stderr
        assert ("transferring context: 400" in done.stdout + done.stderr) is travels
    assert in_image(engine, "session:a", "cat", "/word", "/file") == "secretof another context"
