"""What is asked of a client for the contexts of a build, and in which order."""

import types

import pytest

from fake_buildkit_client import TREE, FakeClient, directory, file, joined, look
from orlop.api.buildkit.client_session import ClientSession
from orlop.engine.builds.contexts import ContextMaker
from orlop.errors import NotFoundError


async def make_context(
    client, files, tmp_path, *, dockerfile="Dockerfile", contexts=None, directories=None, remote="", wanted=True
):
    (tmp_path / "build").mkdir()
    async with joined(client.methods()) as channel:
        session = ClientSession(
            channel,
            files,
            directories={"context": "context", "dockerfile": "dockerfile"} if directories is None else directories,
            contexts=contexts,
        )
        maker = ContextMaker(None, session, str(tmp_path / "build"), base_image=None, repositories=None)
        made = await maker.make(None, remote=remote, dockerfile=dockerfile)
        sources = {"": made.files, **made.named}
        trees = {name: (await source.get()).directory for name, source in sources.items() if wanted}
        return types.SimpleNamespace(dockerfile=made.dockerfile, ignored=made.ignored, trees=trees)


async def test_the_ignore_file_is_read_before_the_context(files, tmp_path):
    context = {
        ".dockerignore": file(b"# all\n/a\n\n!a/empty \n"),
        "a": directory(),
        "a/big": file(b"x" * 100),
        "a/empty": file(),
    }
    client = FakeClient({"context": context, "dockerfile": {"Dockerfile": file(b"FROM scratch\n"), "x": file(b"")}})
    made = await make_context(client, files, tmp_path)
    assert made.dockerfile == b"FROM scratch\n"
    assert look(made.trees[""]).keys() == {".dockerignore", "a", "a/empty"}
    assert made.ignored.ignores("a/big")
    asked = [
        (metadata["dir-name"], metadata.get("followpaths"), metadata.get("exclude-patterns"))
        for _, metadata in client.calls
    ]
    assert asked == [
        (["dockerfile"], ["Dockerfile", "Dockerfile.dockerignore", "dockerfile"], None),
        (["context"], [".dockerignore"], None),
        (["context"], None, ["a", "!a/empty"]),
    ]


async def test_a_dockerfile_has_an_ignore_file_of_its_own(files, tmp_path):
    client = FakeClient(
        {
            "context": {".dockerignore": file(b"b\n"), "a": file(b"1"), "b": file(b"2")},
            "dockerfile": {"sub": directory(), "sub/D": file(b"FROM a\n"), "sub/D.dockerignore": file(b"a\n")},
        }
    )
    made = await make_context(client, files, tmp_path, dockerfile="sub/D")
    assert look(made.trees[""]).keys() == {".dockerignore", "b"}
    assert len(client.calls) == 2


async def test_what_no_step_wants_does_not_travel(files, tmp_path):
    client = FakeClient({"context": TREE, "dockerfile": {"Dockerfile": file(b"FROM scratch\n")}, "lib": TREE})
    await make_context(client, files, tmp_path, contexts={"more": "local:lib"}, wanted=False)
    assert client.sent == ["Dockerfile"]


async def test_a_dockerfile_in_small_letters(files, tmp_path):
    client = FakeClient({"context": {}, "dockerfile": {"dockerfile": file(b"FROM small\n")}})
    assert (await make_context(client, files, tmp_path)).dockerfile == b"FROM small\n"


async def test_no_dockerfile(files, tmp_path):
    client = FakeClient({"context": {}, "dockerfile": {}})
    with pytest.raises(NotFoundError, match="failed to read dockerfile: open Dockerfile: no such file or directory"):
        await make_context(client, files, tmp_path)


async def test_a_named_context_has_an_ignore_file_too(files, tmp_path):
    client = FakeClient(
        {
            "context": {},
            "dockerfile": {"Dockerfile": file(b"FROM scratch\n")},
            "lib": {".dockerignore": file(b"*.o\n"), "a.o": file(b"1"), "a.c": file(b"2")},
        }
    )
    made = await make_context(client, files, tmp_path, contexts={"more": "local:lib"})
    assert look(made.trees["more"]).keys() == {".dockerignore", "a.c"}


async def test_a_dockerfile_is_uploaded(files, tmp_path):
    client = FakeClient(uploads={"abc": [b"FROM", b" scratch\n"]})
    made = await make_context(client, files, tmp_path, directories={}, remote="http://buildkit-session/abc")
    assert made.dockerfile == b"FROM scratch\n"
    assert client.calls[0][1]["urlhost"] == ["buildkit-session"]
