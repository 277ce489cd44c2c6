"""The outer side of builds: contexts that travel by content or come from elsewhere, caches, outputs."""

import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
from contextlib import ExitStack, contextmanager

import pytest
from backports import zstd
from registry_lab import Registry

from harness import BIN, busybox_tar, wait_for
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


def write(directory, text, **files):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"Dockerfile": text, **files}.items():
        (directory / name).write_text(content)
    return directory


def build(engine, *arguments, **options):
    return engine.orlop("build", "--progress=plain", *arguments, **options)


def steps(done):
    """Return how the steps of a plain build ended."""
    lines = [line.split(" ") for line in done.stderr.splitlines() if line.startswith("#")]
    return {int(words[0][1:]): words[1] for words in lines if words[1] in ("DONE", "CACHED", "ERROR")}


# Contexts.


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


@contextmanager
def served(engine, *command):
    """Run a server in the engine's network namespace."""
    assert engine.netns_holder is not None
    full = ["nsenter", f"--net=/proc/{engine.netns_holder.pid}/ns/net", "--", *map(str, command)]
    server = subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def listens(engine, port):
    return (
        engine.in_network("sh", "-c", f"grep -q ':{port:04X} 00000000:0000 0A' /proc/net/tcp", check=False).returncode
        == 0
    )


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


def repository_tool(directory):
    """Return a function that runs git in a directory, with nobody's configuration, and returns what it says."""

    def git(*words):
        plain = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent"}
        given = ("user.name=a", "user.email=a@b", "safe.directory=*", "protocol.file.allow=always")
        command = ["git", *(word for item in given for word in ("-c", item)), *map(str, words)]
        done = subprocess.run(command, cwd=directory, env=plain, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return git


def test_context_from_git(engine, images, tmp_path):
    """Threat F6: names, directories and links of a repository lead nowhere; git changes nothing of the machine."""
    source = write(tmp_path / "s", "FROM busybox\nCOPY . /c\nRUN echo $(ls -A /c)\n", x="1")
    write(source / "sub", "FROM busybox\nCOPY y /\nRUN cat /y\n", y="in a directory\n")
    (source / "link").symlink_to("/etc")
    (source / ".gitattributes").write_text("x export-ignore\n")
    git = repository_tool(source)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "HEAD")
    git("clone", "-q", "--bare", source, tmp_path / "r.git")
    daemon = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={tmp_path}", "--export-all", "--reuseaddr"]
    with served(engine, *daemon, "--listen=127.0.0.1", "--port=9419", "--user-path="):
        wait_for(lambda: listens(engine, 9419))
        url = "git://127.0.0.1:9419/r.git"
        assert " .gitattributes Dockerfile link sub x\n" in build(engine, url).stderr
        assert " in a directory\n" in build(engine, f"{url}#main:sub").stderr
        assert set(list(steps(build(engine, f"{url}#{commit}:sub")).values())[1:]) == {"CACHED"}
        for place, words in (
            ("main:link", "no such directory in the git repository: link"),
            ("main:../..", "invalid directory in a git repository"),
            ("nope", "couldn't find remote ref nope"),
            ("--upload-pack=touch /tmp/pwned", "invalid name in a git repository"),
            ("main:sub/y", "no such directory in the git repository: sub/y"),
        ):
            assert words in build(engine, f"{url}#{place}", check=False).stderr
    for bad in ("git@example.org:x.git", "ssh://example.org/x.git"):
        assert "git over SSH is not supported" in build(engine, bad, check=False).stderr
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])


def test_submodules_of_a_git_context(engine, images, tmp_path):
    """As deep as they go, by relative and whole URLs; what they say is read and never acted on (threat F6)."""
    url = "git://127.0.0.1:9420"
    for name, module, address in (("c", "", ""), ("b", "deep", "../c.git"), ("a", "lib/b", f"{url}/b.git")):
        (tmp_path / name).mkdir()
        git = repository_tool(tmp_path / name)
        (tmp_path / name / f"of-{name}").write_text(name)
        git("init", "-q", "-b", "main")
        if module:
            git("submodule", "add", "-q", tmp_path / f"{address.rpartition('/')[2]}", module)
            git("config", "-f", ".gitmodules", f"submodule.{module}.url", address)
        git("add", ".")
        git("commit", "-q", "-m", "x")
        git("clone", "-q", "--bare", tmp_path / name, tmp_path / f"{name}.git")
    write(tmp_path / "a", "FROM busybox\nCOPY . /c\nRUN echo $(cd /c && find . -type f | sort)\n")
    write(tmp_path / "a/lib", "FROM busybox\nCOPY . /c\nRUN echo $(cd /c && find . -type f | sort)\n")

    def push(branch, **modules):
        """Commit with this ``.gitmodules`` under a name."""
        lines = [f'[submodule "m"]\n\tpath = lib/b\n\t{key} = "{value}"\n' for key, value in modules.items()]
        (tmp_path / "a/.gitmodules").write_text("".join(lines))
        git("add", ".")
        git("commit", "-q", "-m", branch)
        git("push", "-q", tmp_path / "a.git", f"HEAD:refs/heads/{branch}")

    push("good", url=f"{url}/b.git")
    push("none", url=f"{url}/b.git", update="none")
    push("wild", update=f"!touch {tmp_path}/pwned", url=f"{url}/b.git")
    for branch, bad in (("ssh", "git@example.org:x.git"), ("file", f"file://{tmp_path}/b.git"), ("up", "../../b.git"),
                        ("word", "--upload-pack=x"), ("ref", f"{url}/b.git#main")):  # fmt: skip
        push(branch, url=bad)
    push("lost")
    daemon = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={tmp_path}", "--export-all", "--reuseaddr"]
    with served(engine, *daemon, "--listen=127.0.0.1", "--port=9420", "--user-path="):
        wait_for(lambda: listens(engine, 9420))
        whole = (
            " ./.gitmodules ./Dockerfile ./lib/Dockerfile ./lib/b/.gitmodules ./lib/b/deep/of-c ./lib/b/of-b ./of-a\n"
        )
        assert whole in build(engine, f"{url}/a.git#good").stderr
        below = " ./Dockerfile ./b/.gitmodules ./b/deep/of-c ./b/of-b\n"
        assert below in build(engine, f"{url}/a.git#good:lib").stderr
        without = " ./.gitmodules ./Dockerfile ./lib/Dockerfile ./of-a\n"
        assert without in build(engine, f"{url}/a.git#none").stderr
        for branch, words in (
            ("ssh", "git over SSH is not supported"),
            ("file", "invalid git repository"),
            ("up", "invalid url of a submodule"),
            ("wild", "disallowed submodule update setting"),
            ("word", "disallowed submodule url"),
            ("ref", "invalid url of a submodule"),
            ("lost", "no url found for submodule path 'lib/b' in .gitmodules"),
        ):
            assert words in build(engine, f"{url}/a.git#{branch}", check=False).stderr
    assert not (tmp_path / "pwned").exists()
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])


# Caches.


def test_steps_come_from_named_images_only(engine, images, tmp_path):
    """Threat F5: a loaded look-alike is the result of a step for nobody but who names it."""
    context = write(tmp_path / "c", "FROM busybox\nENV A=1\nRUN echo made >/made\nCOPY x /x\n", x="1")
    build(engine, "-t", "outer:cache", context)
    engine.docker("save", "-o", tmp_path / "saved.tar", "outer:cache")
    engine.docker("rmi", "outer:cache")
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    engine.docker("image", "prune", "-f")
    engine.docker("load", "-i", tmp_path / "saved.tar")
    assert steps(build(engine, context))[3] == "DONE"
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    named = engine.docker("build", "--cache-from", "outer:cache", context, env={"DOCKER_BUILDKIT": "0"}).stdout
    assert named.count("Using cache") == 3
    assert set(steps(build(engine, context)).values()) == {"DONE"}  # what was named is not remembered
    (context / "x").write_text("2")
    engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
    changed = engine.docker("build", "--cache-from", "outer:cache", context, env={"DOCKER_BUILDKIT": "0"}).stdout
    assert changed.count("Using cache") == 2


def test_cache_in_a_directory(engine, images, tmp_path):
    script = "FROM busybox AS one\nRUN echo one >/one\nFROM busybox\nCOPY --from=one /one /\nRUN echo two\n"
    context, kept = write(tmp_path / "c", script), tmp_path / "kept"
    build(engine, "--cache-from", f"type=local,src={kept}", "--cache-to", f"type=local,dest={kept},mode=max", context)
    for _ in range(2):
        engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
        engine.docker("image", "prune", "-f")
        done = build(
            engine, "--cache-from", f"type=local,src={kept}", "--cache-to", f"type=local,dest={kept},mode=max", context
        )
        assert [steps(done)[number] for number in (2, 4, 5)] == ["CACHED"] * 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    refused = build(engine, "--cache-to", f"type=local,dest={tmp_path}/mine", context, check=False)
    assert "not empty, and no cache of a build" in refused.stderr
    for text in ("type=s3,bucket=x", "type=registry,ref=x,mode=all", "type=local"):
        assert build(engine, "--cache-to", text, context, check=False).returncode == 1


@pytest.mark.requires("docker-registry")
def test_cache_in_a_registry_and_push(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nRUN echo one >/one\nCOPY x /\n", x="1")
    with Registry(engine, port=5017) as registry:
        name = f"{registry.host}/cache/box:1"
        empty = build(engine, "--cache-from", f"type=registry,ref={name}", context)
        assert f"WARNING: cannot take steps from {name}" in empty.stderr
        made = engine.orlop("build", "-q", "--cache-to", f"type=registry,ref={name}", context).stdout
        assert engine.orlop("inspect", name, check=False).returncode == 1  # the name was for the push only
        engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
        again = build(engine, "--cache-from", name, "--iidfile", tmp_path / "id", context)
        assert steps(again) == {1: "DONE", 2: "CACHED", 3: "CACHED"}
        assert (tmp_path / "id").read_text() == made.strip()
        pushed = f"{registry.host}/pushed/box:1"
        build(engine, "--push", "-t", pushed, context)
        assert registry.manifest("pushed/box", "1")
        engine.docker("rmi", "-f", name, pushed)


def test_cache_of_all_stages_in_a_registry(engine, images, tmp_path):
    script = "FROM busybox AS one\nRUN echo one >/one\nFROM busybox AS two\nRUN echo two >/two\nFROM busybox\n"
    context = write(tmp_path, f"{script}COPY --from=one /one /\nCOPY --from=two /two /\n")
    with Registry(engine, port=5018) as registry:
        name = f"{registry.host}/cache/stages:1"
        for mode, cached in (("min", 2), ("max", 4)):
            engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
            build(engine, "--cache-to", f"type=registry,ref={name},mode={mode}", context)
            assert name.rpartition(":")[0] not in engine.docker("images").stdout
            engine.docker("builder", "prune", "-f", "-a", env={"DOCKER_BUILDKIT": "0"})
            engine.docker("image", "prune", "-f")
            again = build(engine, "--cache-from", name, context)
            assert list(steps(again).values()).count("CACHED") == cached
            names = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", name.rpartition(":")[0])
            engine.docker("rmi", "-f", *names.stdout.split())


def test_no_cache_for_some_stages(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox AS a\nRUN echo a >/a\nFROM busybox AS b\nCOPY --from=a /a /\nRUN echo b\n")
    build(engine, context)
    assert steps(build(engine, "--no-cache-filter", "b", context)) == {
        1: "DONE",
        2: "CACHED",
        3: "DONE",
        4: "DONE",
        5: "DONE",
    }


def cache_entries(engine):
    return json.loads(engine.http("GET", "/system/df?type=build-cache")[1])["BuildCache"]


def test_disk_usage_and_prune(engine, images, tmp_path):
    plain = {"DOCKER_BUILDKIT": "0"}
    engine.docker("builder", "prune", "-f", "-a", env=plain)
    assert cache_entries(engine) == []
    script = "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=2\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/x bs=1M count=1\n"
    context = write(tmp_path / "c", script, x="1")
    build(engine, context)
    build(engine, context)
    found = {entry["Type"]: entry for entry in cache_entries(engine) if entry["Size"]}
    assert set(found) == {"regular", "exec.cachemount", "source.local"}
    assert 2 << 20 <= found["regular"]["Size"] < 3 << 20
    assert (found["regular"]["UsageCount"], found["regular"]["InUse"], found["regular"]["Shared"]) == (1, False, False)
    assert "dd if=/dev/zero of=/big" in found["regular"]["Description"]
    table = engine.docker("system", "df").stdout.splitlines()[-1].split()
    assert table[:4] == ["Build", "Cache", "4", "0"]
    for command in (engine.docker, engine.orlop):
        rows = command("system", "df", "-v").stdout.partition("Build cache usage: ")[2].splitlines()
        assert rows[0].startswith("3.1"), rows
        assert sorted(row.split()[1] for row in rows if " ago" in row) == sorted(
            ["regular", "regular", "exec.cachemount", "source.local"]
        )
    one = ["--filter", "type=exec.cachemount"]
    assert "1.049MB" in engine.docker("builder", "prune", "-f", *one, env=plain).stdout
    assert "exec.cachemount" not in {entry["Type"] for entry in cache_entries(engine)}
    build(engine, "-t", "outer:kept", context)
    assert "Total:\t3" not in engine.docker("builder", "prune", "-f", env=plain).stdout
    assert steps(build(engine, context)) == {1: "DONE", 2: "CACHED", 3: "CACHED"}  # a name stands on it
    engine.docker("rmi", "outer:kept")
    build(engine, context)
    (context / "Dockerfile").write_text("FROM busybox\nRUN dd if=/dev/zero of=/other bs=1M count=2\n")
    build(engine, context)
    done = engine.orlop("builder", "prune", "-f", "-a", "--keep-storage", "2100k")
    assert "Total reclaimed space: 3.1" in done.stdout
    assert steps(build(engine, context)) == {1: "DONE", 2: "CACHED"}
    assert "invalid filter 'x'" in engine.orlop("builder", "prune", "-f", "--filter", "x=1", check=False).stderr
    engine.orlop("builder", "prune", "-f", "-a")
    assert cache_entries(engine) == []
    assert steps(build(engine, context))[2] == "DONE"


# Outputs.


def test_outputs(engine, images, tmp_path):
    context = write(
        tmp_path / "c",
        "FROM busybox AS a\nRUN mkdir /out && echo hi >/out/f && ln -s f /out/l\nFROM scratch\nCOPY --from=a /out /\n",
    )
    places = {kind: tmp_path / kind for kind in ("local", "tar", "oci", "docker", "unpacked")}
    outputs = [f"type={kind},dest={place}" for kind, place in places.items() if kind not in ("local", "unpacked")]
    outputs += [f"type=oci,tar=false,dest={places['unpacked']}", str(places["local"])]
    options = [word for text in outputs for word in ("-o", text)]
    metadata, iid = tmp_path / "metadata", tmp_path / "iid"
    build(engine, "-t", "outer:out", "--iidfile", iid, "--metadata-file", metadata, *options, context)
    image = json.loads(engine.docker("image", "inspect", "outer:out").stdout)[0]["Id"]
    assert iid.read_text() == image
    assert json.loads(metadata.read_text()) == {
        "containerimage.config.digest": image,
        "containerimage.digest": image,
        "image.name": "outer:out",
    }
    assert sorted(os.listdir(places["local"])) == ["f", "l"]
    assert ((places["local"] / "f").read_text(), os.readlink(places["local"] / "l")) == ("hi\n", "f")
    with tarfile.open(places["tar"]) as archive:
        assert archive.getnames() == ["f", "l"]
    for kind in ("oci", "docker"):
        with tarfile.open(places[kind]) as archive:
            assert {"oci-layout", "index.json", "manifest.json"} <= set(archive.getnames())
    assert json.loads((places["unpacked"] / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    engine.docker("load", "-i", places["docker"])
    tar = engine.orlop("build", "-o", "-", "-q", context, text=False).stdout
    assert tar == places["tar"].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--squash"], "--squash is not supported"),
        (["--platform", "linux/s390x"], "building for another platform is not supported: linux/s390x"),
        (["--platform", "linux/amd64,linux/arm64"], "unknown operating system or architecture"),
        (["-o", "type=image,foo=1"], "unsupported field of --output: foo"),
        (["-o", "type=zip,dest=x"], "unsupported type of --output"),
        (["-o", "type=tar,dest=/nonexistent/x"], "invalid output path: /nonexistent/x"),
        (["-o", "type=oci"], "dest is required for oci output"),
        (["--push"], "tag is needed when pushing to registry"),
        (["--secret", "id=x,src=/nonexistent"], "failed to stat /nonexistent: no such file or directory"),
        (["--secret", "id=x,env=ORLOP_NOT_SET"], "no such environment variable: ORLOP_NOT_SET"),
        (["--ssh", "default=/etc/passwd"], "--ssh with a key is not supported"),
        (["--progress", "fancy"], "invalid progress mode fancy"),
        (["--progress", "tty"], "failed to get console"),
        (["--build-context", "x"], "invalid context value: x, expected key=value"),
        (["--cache-from", "type=gha"], "unsupported cache source"),
    ],
)
def test_refusals(engine, images, tmp_path, options, message):
    done = engine.orlop("build", *options, write(tmp_path, "FROM busybox\n"), check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_errors_name_the_file_and_the_line(engine, images, tmp_path):
    context = write(tmp_path / "c", "FROM busybox\n")
    for text, words in (
        ("RUNX x", "dockerfile parse error on line 3: unknown instruction: RUNX (did you mean RUN?)"),
        ("RUN exit 7", "The command '/bin/sh -c exit 7' returned a non-zero code: 7"),
        ("COPY nothing /", "COPY failed: file not found in build context or excluded by .dockerignore: stat nothing: "),
        ("EXPOSE 99999", "invalid containerPort: 99999"),
        ("ENV A=${B:?say}", "B: say"),
    ):
        (context / "other").write_text(f"FROM busybox\nENV C=1\n{text}\nRUN true\n")
        done = build(engine, "-f", context / "other", context, check=False)
        assert done.returncode
        assert f"other:3: {words}" in done.stderr
        docker = engine.docker("build", "-f", context / "other", context, env={"DOCKER_BUILDKIT": "0"}, check=False)
        assert words in docker.stderr
        assert "other:3" not in docker.stderr


# Secrets and agents.


def test_secrets_leave_nothing(engine, images, tmp_path):
    """Threat F9: a secret is not in the image, the history, the cache's key, the log or on the disk."""
    script = 'FROM busybox\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=B sha256sum /run/secrets/a | cut -c1-8; test "$B" = second\n'
    context = write(tmp_path / "c", script)
    value = f"first-{os.urandom(8).hex()}"
    (tmp_path / "file").write_text(value)
    options = ["--secret", f"id=a,src={tmp_path}/file", "--secret", "id=b,env=SECOND"]
    done = build(engine, "-t", "outer:secret", *options, context, env={"SECOND": "second"})
    assert hashlib.sha256(value.encode()).hexdigest()[:8] in done.stderr
    (tmp_path / "file").write_text("another")
    again = build(engine, *options, context, env={"SECOND": "second"})
    assert steps(again)[2] == "CACHED"
    engine.docker("save", "-o", tmp_path / "saved.tar", "outer:secret")
    told = (
        engine.docker("history", "--no-trunc", "outer:secret").stdout + engine.docker("inspect", "outer:secret").stdout
    )
    assert value.encode() not in (tmp_path / "saved.tar").read_bytes()
    assert value not in told + engine.log_text()
    found = subprocess.run(
        ["grep", "-rlF", value, engine.data_root, engine.exec_root], capture_output=True, check=False
    )
    assert found.stdout == b""


def test_secrets_are_gone_when_their_step_has_ended(engine, images, tmp_path):
    """Threat F9: what a step was given is nowhere while the next one runs."""
    script = "FROM busybox\nRUN --mount=type=secret,id=a,required=true cat /run/secrets/a >/dev/null\nRUN sleep 1000\n"
    context = write(tmp_path / "c", script)
    (tmp_path / "file").write_text("value")
    client = subprocess.Popen(
        [BIN / "orlop", "build", "--secret", f"id=a,src={tmp_path}/file", context],
        env=engine.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: "sleep 1000" in engine.docker("ps", "--no-trunc").stdout, what="the second step")
        assert not list(engine.exec_root.glob("builds/*/*"))
    finally:
        client.kill()
        client.wait()
    wait_for(lambda: engine.docker("ps", "-aq").stdout == "")


def test_agent_is_forwarded(engine, images, tmp_path):
    """Each connection to a step's socket is one to the user's agent, at the same time as others."""
    place = tmp_path / "agent"
    context = write(tmp_path / "c", "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && sleep 1000\n")
    command = [BIN / "orlop", "build", "--ssh", f"default={place}", context]
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(place))
        agent.listen()
        agent.settimeout(20)
        client = subprocess.Popen(command, env=engine.environment, stderr=subprocess.DEVNULL)
        try:
            sockets = list(wait_for(lambda: find_sockets(engine.exec_root / "builds")))
            with ExitStack() as stack:
                ends = []
                for number in range(2):
                    step = stack.enter_context(socket.socket(socket.AF_UNIX))
                    step.settimeout(20)
                    step.connect(str(sockets[0]))
                    step.sendall(b"hello %d" % number)
                    ends.append((step, stack.enter_context(agent.accept()[0])))
                    ends[-1][1].settimeout(20)
                for number, (step, user) in enumerate(ends):
                    assert user.recv(100) == b"hello %d" % number
                    user.sendall(b"answer %d" % number)
                    assert step.recv(100) == b"answer %d" % number
                ends[0][0].close()
                assert ends[0][1].recv(100) == b""
                ends[1][1].close()
                assert ends[1][0].recv(100) == b""
        finally:
            client.terminate()
            client.wait()
    wait_for(lambda: find_sockets(engine.exec_root / "builds") == [])


def find_sockets(top):
    return [path for path in top.rglob("*") if path.is_socket()]


def test_source_date_epoch_gives_the_same_image_twice(engine, own_engine, images, tmp_path):
    script = (
        "FROM scratch AS made\nADD base.tar /\nARG SOURCE_DATE_EPOCH\nWORKDIR /some/deep\nCOPY x /x\n"
        "RUN mkdir -p /a/b && echo $SOURCE_DATE_EPOCH >/a/b/c && rm /x && ln -s b /a/l && mkfifo /a/p\n"
        'FROM made\nCOPY --from=made /a /copied/\nCMD ["sh"]\n'
    )
    context = write(tmp_path / "c", script, x="1")
    busybox_tar(context / "base.tar")
    saved, ids = [], []
    for number, one in enumerate((engine, own_engine)):
        build(one, "-t", "outer:same", "--iidfile", tmp_path / "id", context, env={"SOURCE_DATE_EPOCH": "1700000000"})
        ids.append((tmp_path / "id").read_text())
        one.docker("save", "-o", tmp_path / f"{number}.tar", "outer:same")
        saved.append((tmp_path / f"{number}.tar").read_bytes())
    assert ids[0] == ids[1]
    assert saved[0] == saved[1]
    assert "2023-11-14T22:13:20Z" in engine.docker("inspect", "-f", "{{.Created}}", "outer:same").stdout
    engine.orlop("build", "-o", tmp_path / "tree", context, env={"SOURCE_DATE_EPOCH": "1700000000"})
    assert (tmp_path / "tree/a/b/c").stat().st_mtime == 1700000000
    plain = engine.orlop("build", "-q", context).stdout.strip()
    assert plain != ids[0]  # what bears the time as it is does not come from what does not
    bad = build(engine, "--build-arg", "SOURCE_DATE_EPOCH=tomorrow", context, check=False)
    assert "invalid SOURCE_DATE_EPOCH: 'tomorrow'" in bad.stderr
