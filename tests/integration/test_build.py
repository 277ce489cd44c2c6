"""``docker build`` with the classic client: stream, errors, the cache, what is left; what files give: test_build_corpus."""

import io
import json
import os
import re
import subprocess
import tarfile
import time
from pathlib import Path

import docker
import pytest

from harness import DOCKER, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def run(host_environment, *arguments, **options):
    environment = {**host_environment, "DOCKER_BUILDKIT": "0"}
    return subprocess.run(
        [DOCKER, *arguments], env=environment, capture_output=True, timeout=100, check=False, **options
    )


def build(engine, *arguments, **options):
    done = run(engine.environment, "build", *map(str, arguments), **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def write(directory: Path, text: str, **files) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(text)
    for name, content in files.items():
        (directory / name).write_text(content)
    return directory


def test_stream_is_the_classic_one(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nENV A=1\nRUN echo out; echo err >&2\n")
    client = docker.DockerClient(base_url=engine.host)
    try:
        events = list(client.api.build(path=str(context), tag="made:1", rm=True, decode=True))
        image, _ = client.images.build(path=str(context), tag="made:2", rm=True)
        assert client.containers.list(all=True) == []
    finally:
        client.close()
    text = "".join(event.get("stream", "") for event in events)
    made = next(event["aux"]["ID"] for event in events if "aux" in event)
    assert text.startswith("Step 1/3 : FROM busybox\n ---> ")
    assert "\nStep 3/3 : RUN echo out; echo err >&2\n ---> Running in " in text
    assert "out\n" in text
    assert "\x1b[91merr\n\x1b[0m" in text
    assert " ---> Removed intermediate container " in text
    assert text.endswith(f"Successfully built {made[7:19]}\nSuccessfully tagged made:1\n")
    assert image.id == made  # all of it came from the cache


def test_cache_knows_content_and_not_time(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nARG X\nCOPY a /a\nRUN cat /a > /b; echo $X\n", a="1")

    def hits(*options):
        code, out, err = build(engine, *options, context)
        assert code == 0, err
        return out.count("Using cache")

    assert hits() == 0
    os.utime(context / "a", (1, 1))
    assert hits() == 3
    assert hits("--build-arg", "X=2") == 2  # RUN sees the argument
    (context / "a").write_text("2")
    assert hits() == 1
    (context / "a").chmod(0o600)
    assert hits() == 1
    assert hits("--no-cache") == 0
    engine.docker("builder", "prune", "-f")
    assert hits() == 0


def test_cache_knows_what_is_told_alike(engine, images, tmp_path):
    """Threat F5: the words that a history has for them are the same, what they mean is not."""
    for one, other in (
        ('ENV A="b C=d"', "ENV A=b C=d"),
        ('VOLUME ["/a /b"]', "VOLUME /a /b"),
        ('SHELL ["a b"]', 'SHELL ["a", "b"]'),
    ):
        found = []
        for number, text in enumerate((one, other)):
            code, out, err = build(engine, "-q", write(tmp_path / f"{number}", f"FROM busybox\n{text}\n"))
            assert code == 0, err
            found.append(engine.inspect(out.strip())["Config"])
        assert found[0] != found[1]


def test_cache_takes_no_look_alike(engine, images, tmp_path):
    """CVE-2024-24557: an image that claims to be the result of a step, and came from elsewhere."""
    context = write(tmp_path, 'FROM busybox\nCMD ["good"]\n')
    engine.docker("create", "--name", "evil", "busybox", "sh")
    engine.docker("commit", "-c", 'CMD ["good"]', "evil", "evil:1")
    saved = subprocess.run([DOCKER, "save", "evil:1"], env=engine.environment, capture_output=True, check=True).stdout
    engine.docker("rmi", "evil:1")
    subprocess.run([DOCKER, "load"], env=engine.environment, input=saved, check=True, capture_output=True)
    code, out, err = build(engine, context)
    assert code == 0, err
    assert "Using cache" not in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FRM x", "dockerfile parse error on line 1: unknown instruction: FRM (did you mean FROM?)"),
        ("FROM busybox\n\nENV", "dockerfile parse error on line 3: ENV requires at least one argument"),
        ("FROM busybox\nCOPY nope /", "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist"),
        ("FROM busybox\nCOPY nope* /", "COPY failed: no source files were specified"),
        ("FROM busybox\nCOPY ../../../../etc/passwd /x", "stat ../../../../etc/passwd: file does not exist"),
        ("FROM busybox\nCOPY out/passwd /x", "stat out/passwd: file does not exist"),
        ("FROM busybox\nCOPY d a /x", "When using COPY with more than one source file, the destination must be a directory and end with a /"),
        ("FROM busybox\nCOPY --chown=nobody a /x", "unable to convert uid/gid chown string to host mapping: "),
        ("FROM busybox\nCOPY a /bin/busybox/x", "not a directory: /bin/busybox"),
        ("FROM busybox\nADD http://127.0.0.1/x /x", "failed to GET http://127.0.0.1/x: "),
        ("FROM busybox\nCOPY --from=7 a /", "invalid from flag value 7: index out of bounds"),
        ("FROM busybox\nSTOPSIGNAL FOO", "invalid signal: FOO"),
        ("FROM busybox\nRUN false\nHEALTHCHECK FOO", 'dockerfile parse error on line 3: unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("FROM busybox\nENV A=${B^^}", 'failed to process "${B^^}": unsupported modifier (^) in substitution'),
        ("FROM scratch", "No image was generated. Is your Dockerfile empty?"),
        ("FROM busybox\nRUN <<A\n", "dockerfile parse error on line 2: unterminated heredoc: A"),
        ("RUN x", "dockerfile parse error on line 1: no build stage in current context"),
        ("", "the Dockerfile (Dockerfile) cannot be empty"),
    ],
)  # fmt: skip
def test_errors(engine, images, tmp_path, text, message):
    context = write(tmp_path, text, a="1")
    (context / "d").mkdir()
    (context / "out").symlink_to("/etc")
    code, _, err = build(engine, context)
    assert code == 1
    assert message in err
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])


def test_target_builds_what_it_needs(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox AS a\nRUN echo a\nFROM busybox AS b\nRUN false\nFROM a AS c\nRUN echo c\n")
    assert build(engine, context)[0] == 0
    code, out, _ = build(engine, "--target", "A", context)
    assert (code, "Step 2/2 : RUN echo a" in out) == (0, True)
    assert build(engine, "--target", "b", context)[0] == 1
    code, _, err = build(engine, "--target", "z", context)
    assert (code, 'target stage "z" could not be found' in err) == (1, True)


def test_failed_command_tells_its_code(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nRUN exit 7\n")
    code, _, err = build(engine, "--force-rm", context)
    assert (code, err.splitlines()[-1]) == (7, "The command '/bin/sh -c exit 7' returned a non-zero code: 7")
    assert engine.docker("ps", "-aq").stdout == ""
    assert build(engine, context)[0] == 7
    assert engine.docker("ps", "-aq").stdout != ""  # to be looked at, as in Docker


def test_run_has_the_boundary_and_the_limits(engine, images, tmp_path):
    script = "FROM busybox\nRUN grep Cap /proc/self/status; grep Seccomp: /proc/self/status; ulimit -n; cat /etc/hosts; ip link; df /dev/shm\n"
    context = write(tmp_path, script)
    options = ["--ulimit", "nofile=77:88", "--add-host", "there:192.0.2.7", "--network", "none", "--shm-size", "1m"]
    code, out, err = build(engine, *options, context)
    assert code == 0, err
    assert "CapInh:\t0000000000000000" in out
    assert "CapAmb:\t0000000000000000" in out
    assert "CapBnd:\t00000000a80425fb" in out
    assert "Seccomp:\t2" in out
    assert "\n77\n" in out
    assert "192.0.2.7\tthere" in out
    assert "eth0" not in out
    assert " 1024 " in out


def test_client_that_leaves_ends_the_build(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nRUN echo begun; sleep 1000\n")
    environment = {**engine.environment, "DOCKER_BUILDKIT": "0"}
    client = subprocess.Popen([DOCKER, "build", str(context)], env=environment, stdout=subprocess.PIPE)
    for line in client.stdout:
        if line == b"begun\n":
            break
    client.kill()
    client.wait()
    client.stdout.close()
    wait_for(lambda: engine.docker("ps", "-aq").stdout == "")
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])


def test_killed_engine_leaves_nothing(own_engine, tmp_path):
    engine = own_engine
    before = set(os.listdir(engine.data_root / "layers/overlay2"))
    context = write(tmp_path, "FROM busybox\nRUN echo begun; sleep 1000\n")
    environment = {**engine.environment, "DOCKER_BUILDKIT": "0"}
    client = subprocess.Popen(
        [DOCKER, "build", str(context)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    for line in client.stdout:
        if line == b"begun\n":
            break
    engine.kill()
    client.wait()
    client.stdout.close()
    engine.start()
    assert engine.docker("ps", "-aq").stdout == ""
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [])
    wait_for(lambda: set(os.listdir(engine.data_root / "layers/overlay2")) == before)


def test_orlop_build(engine, images, tmp_path):
    context = write(tmp_path / "c", "FROM busybox\nCOPY . /c\nRUN find /c | sort\n", a="1", b="2")
    (context / ".dockerignore").write_text("b\nDockerfile\n")
    (context / "only").mkdir()
    (context / "only/x").write_text("x")
    (context / "only/y").write_text("y")
    (context / ".dockerignore").write_text("b\nDockerfile\nonly\n!only/y\n.dockerignore\n")
    done = engine.orlop("build", "-t", "made:1", "--iidfile", str(tmp_path / "id"), str(context))
    written = [line.split(" ", 2)[2] for line in done.stderr.splitlines() if re.match(r"#3 [0-9.]+ /", line)]
    assert written == ["/c", "/c/a", "/c/only", "/c/only/y"]
    made = json.loads(engine.docker("image", "inspect", "made:1").stdout)[0]["Id"]
    assert (tmp_path / "id").read_text() == made
    assert engine.orlop("build", "-q", str(context)).stdout == f"{made}\n"
    (context / "Other").write_text("FROM busybox\nRUN exit 4\n")
    failed = engine.orlop("build", "-f", str(context / "Other"), str(context), check=False)
    assert failed.returncode == 4
    assert failed.stderr.endswith("#2 ERROR\nOther:2: The command '/bin/sh -c exit 4' returned a non-zero code: 4\n")
    assert engine.orlop("build", "nowhere", check=False).returncode == 1


def test_compressed_contexts_and_archives(engine, images, tmp_path):
    tree_dir = tmp_path / "t"
    (tree_dir / "sub").mkdir(parents=True)
    (tree_dir / "sub/file").write_text("x")
    (tree_dir / ".wh.name").write_text("w")
    subprocess.run(["tar", "-C", tree_dir, "--owner=7", "--group=8", "-czf", tmp_path / "in.tgz", "sub"], check=True)
    write(tmp_path, "FROM busybox\nADD in.tgz /un\nCOPY in.tgz /un/\nRUN stat -c '%n %u:%g' /un/sub/file /un/in.tgz\n")
    subprocess.run(["tar", "-C", tmp_path, "-cJf", tmp_path.parent / f"{tmp_path.name}.txz", "."], check=True)
    with (tmp_path.parent / f"{tmp_path.name}.txz").open("rb") as file:
        code, out, err = build(engine, "-", stdin=file)
    assert code == 0, err
    assert "/un/sub/file 7:8\n/un/in.tgz 0:0\n" in out
    write(tmp_path, "FROM busybox\nCOPY t /t\n")
    code, _, err = build(engine, tmp_path)
    assert code == 1
    assert "names that begin with .wh. are reserved" in err


def test_plain_docker_build_needs_no_settings(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nENV A=1\n")
    done = engine.docker("build", str(context))
    assert "Successfully built" in done.stdout


def test_many_lines_do_not_wait_for_the_client(engine, images, tmp_path):
    context = write(tmp_path, "FROM busybox\nRUN seq 1 20000\n")
    began = time.monotonic()
    code, out, err = build(engine, context)
    assert code == 0, err
    assert out.count("\n") > 20000
    assert time.monotonic() - began < 60


def test_hostile_context_and_image_reach_nothing_of_the_host(engine, images, tmp_path):
    """Threats F6 and F8: names that lead out, in the context, in the stage, and in the destination."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("host")
    script = f"""FROM busybox
RUN ln -s {outside} /trap && ln -s ../../../../../..{outside} /up && ln -s {outside}/secret /file
COPY a /trap/
COPY a /up/deep/b
WORKDIR /trap/made
RUN cat {outside}/a {outside}/deep/b && test -d {outside}/made && test ! -e {outside}/secret
FROM busybox
COPY --from=0 /file /stolen
"""
    context = write(tmp_path / "c", script, a="1")
    code, out, err = build(engine, context)
    assert (code, "COPY failed: stat file: file does not exist" in err) == (1, True), out + err
    assert os.listdir(outside) == ["secret"]

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in (("Dockerfile", b"FROM busybox\n"), ("../../escaped", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    code, _, err = build(engine, "-", input=archive.getvalue())
    assert (code, "outside of the root" in err) == (1, True), err
    assert os.listdir(outside) == ["secret"]
    assert not any((engine.data_root / place / "escaped").exists() for place in (".", "builds"))

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.type, member.linkname = tarfile.SYMTYPE, str(outside / "secret")
        tar.addfile(member)
    code, _, err = build(engine, "-", input=archive.getvalue())
    assert (code, "Cannot locate specified Dockerfile: Dockerfile" in err) == (1, True), err


def test_prune_forgets_what_is_older(engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo pruned >/p\n")
    build = ("build", "-q", "-t", "pruned:1", tmp_path)
    environment = {"DOCKER_BUILDKIT": "0"}
    first = engine.docker(*build, env=environment).stdout
    engine.docker("builder", "prune", "-f", "-a", "--filter", "until=1h", env=environment)
    assert engine.docker(*build, env=environment).stdout == first
    engine.docker("builder", "prune", "-f", env=environment)  # without --all, what an image stands on stays
    assert engine.docker(*build, env=environment).stdout == first
    engine.docker("builder", "prune", "-f", "-a", "--filter", "until=0s", env=environment)
    assert engine.docker(*build, env=environment).stdout != first
    engine.docker("rmi", "-f", "pruned:1")
