"""What a client's own program reads of results: files of git repositories, and of what Dockerfiles make."""

import asyncio
import contextlib
import hashlib
import os
import secrets
from types import SimpleNamespace

import pytest
from build_lab import listens, repository_tool, served, write
from buildkit_lab import buildx_of, control_of, run, upgraded

from fake_buildkit_client import FakeClient, file
from harness import DOCKER, wait_for
from orlop.api.buildkit.control_messages import Definition, Exporter, SolveRequest
from orlop.api.buildkit.fsutil import DIRECTORY
from orlop.api.buildkit.gateway_messages import (
    FileRange,
    GatewaySolveRequest,
    GatewaySolveResponse,
    ReadDirRequest,
    ReadDirResponse,
    ReadFileRequest,
    ReadFileResponse,
    Ref,
    Result,
    ReturnRequest,
    StatFileRequest,
    StatFileResponse,
)
from orlop.api.grpc.server import Server
from orlop.api.grpc.status import CallError
from orlop.primitives.protobuf.wire import encode

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]
BRIDGE, CONTROL = "/moby.buildkit.v1.frontend.LLBBridge/", "/moby.buildkit.v1.Control/"
PORT = 9431
URL = f"git://127.0.0.1:{PORT}/r.git"


def repository(url: str, *attributes: tuple[str, str]) -> Definition:
    """Return the definition that ``llb.Git`` gives."""
    pairs = [(2, encode([(1, name), (2, value)])) for name, value in attributes]
    source = encode([(3, encode([(1, url), *pairs]))])
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    return Definition(operations=[source, encode([(1, encode([(1, digest)]))])])


@pytest.fixture
def served_repository(engine, tmp_path):
    """A repository with a bake file, links that lead out, and a directory."""
    source = write(tmp_path / "s", "FROM busybox\nCOPY word /\nRUN cat /word\n", word="of the repository\n")
    write(source / "sub", "FROM busybox\n", y="in a directory")
    (source / "out").symlink_to("/etc/passwd")
    (source / "docker-bake.hcl").write_text('target "default" {\n tags = ["remote:bake"]\n context = "."\n}\n')
    git = repository_tool(source)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    git("clone", "-q", "--bare", source, tmp_path / "r.git")
    daemon = ["git", "-c", "safe.directory=*", "daemon", f"--base-path={tmp_path}", "--export-all", "--reuseaddr"]
    with served(engine, *daemon, "--listen=127.0.0.1", f"--port={PORT}", "--user-path="):
        wait_for(lambda: listens(engine, PORT))
        yield
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [], what="end of the files")


@contextlib.asynccontextmanager
async def program(engine, client=None, **request):
    """Begin a build whose program is the test; ``solved`` is the task of its Solve."""
    client = client or FakeClient()
    name, ref, methods = secrets.token_hex(12), secrets.token_hex(12), client.methods()
    headers = [f"X-Docker-Expose-Session-Uuid: {name}"]
    headers += [f"X-Docker-Expose-Session-Grpc-Method: {one}" for one in methods]
    session = asyncio.create_task(Server(methods).serve(*await upgraded(engine, "/session", headers)))
    try:
        async with control_of(engine) as control:
            begun = SolveRequest(ref=ref, session=name, **request).encode()
            solved = asyncio.create_task(control.unary(f"{CONTROL}Solve", begun))

            async def call(method, message):
                return await control.unary(f"{BRIDGE}{method}", message.encode(), {"buildkit-controlapi-buildid": ref})

            try:
                yield SimpleNamespace(call=call, solved=solved)
            finally:
                if not solved.done():
                    with contextlib.suppress(CallError):
                        await call("Return", ReturnRequest(result=Result(ref=Ref())))
                await asyncio.gather(solved, return_exceptions=True)
    finally:
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)


async def solved_ref(build, **wanted) -> str:
    answer = await build.call("Solve", GatewaySolveRequest(**wanted))
    return GatewaySolveResponse.decode(answer).result.ref.id


async def test_files_of_a_repository(engine, served_repository) -> None:
    async with program(engine) as build:
        ref = await solved_ref(build, definition=repository(URL))

        async def read(path, **place):
            request = ReadFileRequest(ref=ref, path=path)
            request.range = FileRange(**place) if place else None
            return ReadFileResponse.decode(await build.call("ReadFile", request)).data

        assert await read("word") == b"of the repository\n"
        assert await read("/sub/../word", offset=3, length=3) == b"the"
        listed = ReadDirResponse.decode(await build.call("ReadDir", ReadDirRequest(ref=ref, path="/"))).entries
        assert [one.path for one in listed] == [b"Dockerfile", b"docker-bake.hcl", b"out", b"sub", b"word"]
        assert listed[3].mode & DIRECTORY
        some = ReadDirResponse.decode(await build.call("ReadDir", ReadDirRequest(ref=ref, path="", pattern="*.hcl")))
        assert [one.path for one in some.entries] == [b"docker-bake.hcl"]
        told = StatFileResponse.decode(await build.call("StatFile", StatFileRequest(ref=ref, path="word"))).stat
        assert (told.path, told.size) == (b"word", 18)
        for path, words in (
            ("nothing", "open nothing: no such file or directory"),
            ("out", "open out: no such file or directory"),  # /etc/passwd of the repository
            ("../../../../etc/passwd", "no such file or directory"),
            ("sub", "read sub: not a file"),
        ):
            with pytest.raises(CallError, match=words):
                await read(path)
        with pytest.raises(CallError, match="no such ref: other"):
            await build.call("StatFile", StatFileRequest(ref="other", path="word"))


async def test_a_directory_of_a_commit(engine, served_repository) -> None:
    async with program(engine) as build:
        definition = repository("git://elsewhere.example/r.git#main:sub", ("git.fullurl", URL))
        ref = await solved_ref(build, definition=definition, evaluate=True)
        request = ReadFileRequest(ref=ref, path="y")
        assert ReadFileResponse.decode(await build.call("ReadFile", request)).data == b"in a directory"


async def test_what_cannot_be_had(engine, served_repository) -> None:
    async with program(engine) as build:
        for definition, words in (
            (repository(URL, ("git.keepgitdir", "true")), "without their .git directory"),
            (repository("docker-image://docker.io/library/busybox"), "low-level definitions"),
            (repository("local://context"), "low-level definitions"),
        ):
            with pytest.raises(CallError, match=words):
                await solved_ref(build, definition=definition)
        for url, words in (
            (f"{URL}#nope", "couldn't find remote ref nope"),
            ("git://127.0.0.1:1/x.git", "unable to|Connection refused|failed"),
            (f"{URL}#--upload-pack=x", "invalid name in a git repository"),
        ):
            ref = await solved_ref(build, definition=repository(url))
            with pytest.raises(CallError, match=words):
                await build.call("ReadFile", ReadFileRequest(ref=ref, path="word"))


async def test_a_repository_is_no_image(engine, served_repository) -> None:
    async with program(engine, exporters=[Exporter(type="moby")]) as build:
        ref = await solved_ref(build, definition=repository(URL))
        await build.call("Return", ReturnRequest(result=Result(ref=Ref(id=ref))))
        with pytest.raises(CallError, match="cannot be exported"):
            await build.solved


async def test_files_of_what_a_dockerfile_made(engine, images) -> None:
    client = FakeClient({"dockerfile": {"Dockerfile": file(b"FROM busybox\nRUN echo made >/made\n")}, "context": {}})
    async with program(engine, client) as build:
        ref = await solved_ref(build, frontend="dockerfile.v0")
        request = ReadFileRequest(ref=ref, path="/made")
        assert ReadFileResponse.decode(await build.call("ReadFile", request)).data == b"made\n"
    wait_for(lambda: os.listdir(engine.data_root / "builds") == [], what="end of the files")


def test_bake_from_a_repository(engine, images, served_repository, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    config = buildx_of(tmp_path)
    done = run(engine, tmp_path / "empty", config, DOCKER, "buildx", "bake", "--progress=plain", URL)
    assert done.returncode == 0, done.stderr
    assert "of the repository" in done.stderr
    assert engine.docker("run", "--rm", "remote:bake", "cat", "/word").stdout == "of the repository\n"
