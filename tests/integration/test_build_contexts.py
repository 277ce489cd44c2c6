"""Contexts of builds: those that travel by content, named ones, and what a URL names."""

import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest
from backports import zstd
from build_lab import build, listens, served, steps, write

from harness import wait_for
from orlop.client.client import connect
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


@pytest.fixture
def client(engine):
    with connect(engine.host) as made:
        yield made


def row(path, data=b"", kind="f"):
    return [path, kind, 0o644, 0, len(data), hashlib.sha256(data).hexdigest() if kind == "f" else ""]


def frame(data, digest=None):
    return bytes.fromhex(digest or hashlib.sha256(data).hexdigest()) + len(data).to_bytes(8, "big") + data


def test_only_what_is_missing_travels(engine, images, client, tmp_path):
    big = os.urandom(1 << 20).hex()
    context = write(tmp_path / "c", "FROM busybox\nCOPY . /c\nRUN ls -l /c; stat -c %a:%Y /c/run\n", a="1", big=big)
    (context / "run").write_text("x")
    (context / "run").chmod(0o751)
    os.utime(context / "run", (5, 1000))
    first = build(engine, "-t", "outer:1", context)
    assert " 751:1000\n" in first.stderr
    session = client.builds.begin({})
    same = [row("Dockerfile", (context / "Dockerfile").read_bytes()), row("big", big.encode())]
    new = row("new", b"other")
    assert client.builds.announce(session, "context", json.dumps([*same, new]).encode()) == [new[5]]
    client.builds.end(session)
    # the same tree as a tar gives the same digests, so that both clients have one cache
    packed = subprocess.run(
        ["tar", "-C", context, "--owner=0", "--group=0", "-c", "."], capture_output=True, check=True
    )
    again = engine.client("docker", "build", "-q", "-", input=packed.stdout, text=False, env={"DOCKER_BUILDKIT": "0"})
    assert again.stdout.decode().strip() == json.loads(engine.docker("image", "inspect", "outer:1").stdout)[0]["Id"]


@pytest.mark.parametrize(
    "rows",
    [
        [row("../escaped", b"x")],
        [row("/escaped", b"x")],
        [row("a/../../escaped", b"x")],
        [row("a//b", b"x")],
        [["a", "f", 0o644, 0, 1, "../../../state.db"]],
        [["a", "f", -1, 0, 1, "0" * 64]],
        [["a", "b", 0o644, 0]],
        [["a", "f", 0o644, 0, -5, "0" * 64]],
        {"a": 1},
    ],
)
def test_hostile_manifest(engine, client, rows):
    session = client.builds.begin({})
    with pytest.raises(InvalidParameterError):
        client.builds.announce(session, "context", json.dumps(rows).encode())
    client.builds.end(session)
    with pytest.raises(NotFoundError):
        client.builds.end(session)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["l", "l", 0o777, 0, 0, "/etc"], row("l/escaped", b"x")], "no directory in the context"),
        ([["d", "d", 0o755, 0, 0], ["l", "l", 0o777, 0, 0, "d"], row("l/x", b"x")], "no directory in the context"),
        ([row("a", b"x"), row("a", b"x")], "twice in the context"),
        ([row("a", b"x"), row("a/b", b"x")], "no directory in the context"),
        ([row("none/b", b"x")], "no directory in the context"),
    ],
)
def test_manifest_that_leads_out_of_its_directories(engine, client, rows, message):
    session = client.builds.begin({})
    if client.builds.announce(session, "context", json.dumps(rows).encode()):
        client.builds.send(session, [frame(b"x")])
    with pytest.raises(OrlopError, match=message):
        list(client.builds.build(None, {"session": session}))
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])
    assert not os.path.exists("/etc/escaped")


def test_content_is_what_its_digest_says(engine, client):
    session = client.builds.begin({})
    wanted = hashlib.sha256(b"wanted").hexdigest()
    for frames in ([frame(b"poison", wanted)], [frame(b"wanted")[:-1]], [b"short"]):
        with pytest.raises(InvalidParameterError):
            client.builds.send(session, frames)
        left = set(os.listdir(engine.data_root / "build-files"))
        assert wanted not in left
        assert not any(name.startswith(".new") for name in left)
    client.builds.end(session)


def test_session_serves_one_build_and_forgets(engine, images, client, tmp_path):
    context = write(tmp_path, "FROM busybox\n")
    session = client.builds.begin({"Secrets": {"a": "c2VjcmV0"}})
    tar = subprocess.run(["tar", "-C", context, "-c", "."], capture_output=True, check=True).stdout
    assert any("aux" in document for document in client.builds.build([tar], {"session": session}))
    with pytest.raises(NotFoundError, match="No such build session"):
        list(client.builds.build([tar], {"session": session}))
    with pytest.raises(InvalidParameterError, match="not base64"):
        client.builds.begin({"Secrets": {"a": "?"}})


def test_session_ends_with_a_build_that_is_refused(engine, client):
    """Threat F9, and what it brought would stay in the cache."""
    session = client.builds.begin({"Secrets": {"a": "c2VjcmV0"}})
    client.builds.announce(session, "context", json.dumps([row("Dockerfile", b"FROM busybox\n")]).encode())
    client.builds.send(session, [frame(b"FROM busybox\n")])
    with pytest.raises(OrlopError, match="building for another platform is not supported"):
        list(client.builds.build(None, {"session": session, "platform": "linux/s390x"}))
    with pytest.raises(NotFoundError, match="No such build session"):
        client.builds.end(session)
    assert engine.http("POST", "/build/prune?all=1")[0] == 200
    left = json.loads(engine.http("GET", "/system/df?type=build-cache")[1])["BuildCache"]
    assert "source.local" not in {entry["Type"] for entry in left}


def test_named_contexts(engine, images, tmp_path):
    context = write(tmp_path / "c", "FROM base AS b\nCOPY --from=other x /x\nRUN cat /x\n")
    other = write(tmp_path / "o", "", x="other's")
    options = ["--build-context", f"other={other}", "--build-context", "base=docker-image://busybox"]
    done = build(engine, *options, context)
    assert " other's\n" in done.stderr
    assert build(engine, "--build-context", "base=nowhere", context, check=False).returncode == 1


def test_dockerfile_from_elsewhere(engine, images, tmp_path):
    context = write(tmp_path / "c", "FROM busybox\nRUN false\n", x="1")
    done = build(engine, "-f", "-", context, input="FROM busybox\nCOPY . /c\nRUN echo $(ls -A /c)\n")
    assert " Dockerfile x\n" in done.stderr
    again = build(engine, "-f", "-", context, input="FROM busybox\nCOPY . /c\nRUN echo $(ls -A /c)\n")
    assert set(list(steps(again).values())[1:]) == {"CACHED"}
    other = write(tmp_path / "o", "FROM busybox\nCOPY x /\n")
    (tmp_path / "o/Dockerfile.dockerignore").write_text("x\n")
    done = build(engine, "-f", other / "Dockerfile", context, check=False)
    assert "excluded by .dockerignore: stat x" in done.stderr


def test_context_from_a_url(engine, images, tmp_path):
    web = write(tmp_path / "w", "FROM busybox\nRUN echo alone\n")
    tree = write(tmp_path / "t", "FROM busybox\nCOPY x /\nRUN cat /x\n", x="in a tar\n")
    subprocess.run(["tar", "-C", tree, "-czf", web / "t.tgz", "."], check=True)
    (web / "t.zst").write_bytes(zstd.compress(gzip.decompress((web / "t.tgz").read_bytes())))
    with served(engine, sys.executable, "-m", "http.server", "8011", "--bind", "127.0.0.1", "-d", web):
        wait_for(lambda: listens(engine, 8011))
        assert " alone\n" in build(engine, "http://127.0.0.1:8011/Dockerfile").stderr
        assert " in a tar\n" in build(engine, "http://127.0.0.1:8011/t.tgz").stderr
        assert set(list(steps(build(engine, "http://127.0.0.1:8011/t.zst")).values())[1:]) == {"CACHED"}
        gone = build(engine, "http://127.0.0.1:8011/none", check=False)
        assert "failed to GET http://127.0.0.1:8011/none with status 404" in gone.stderr
        status, body = engine.http("POST", "/build?remote=http://127.0.0.1:8011/t.tgz")
        assert (status, b"Successfully built" in body) == (200, True)
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])
