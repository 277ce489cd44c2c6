"""What the engine asks of a client on its session, against one in memory that speaks gRPC."""

import asyncio
import contextlib
import os
import random
import secrets
import socket
import stat
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_buildkit_client import OLD, FakeClient, directory, file, joined, link, stat_of, touched
from orlop.api.buildkit import incoming
from orlop.api.buildkit.client_session import ClientSession
from orlop.api.buildkit.fsutil import Kind, Packet
from orlop.api.grpc.server import unary
from orlop.api.grpc.status import CallError, Code
from orlop.engine.builds.client import Choice
from orlop.engine.builds.context_files import ContextFiles
from orlop.engine.builds.contexts import ContextMaker
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError, SystemFailureError, UnavailableError
from orlop.registry.credentials import ANONYMOUS, Credentials

TREE = {
    "Dockerfile": file(b"FROM scratch\nCOPY . /\n"),
    "a": directory(0o750),
    "a/big": file(os.urandom(300_000), 0o600),
    "a/empty": file(),
    "a/link": link("../../etc/passwd"),
    "a.b": file(b"#!/bin/sh\n", 0o755),
    "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve": file(b"x"),
    "same": file(b"", link="a/big"),
}


@pytest.fixture
def files(tmp_path):
    return ContextFiles(str(tmp_path / "build-files"))


@pytest.fixture
def target(tmp_path):
    def make():
        path = tmp_path / f"tree-{secrets.token_hex(8)}"
        path.mkdir()
        return path

    return make


async def lay_out(client, files, target, *, name="context", key="key", choice=None):
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files, shared_key=key, directories={"context": name})
        await session.lay_out("context", str(target), choice or Choice())
        return session.received


def look(root):
    """Return what is in a directory: kind and mode, time, and content or target by path."""
    found = {}
    for above, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(above, name)
            status = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as opened:
                    content = opened.read()
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_mtime_ns, content)
    return found


async def test_a_directory_is_made_as_it_is_told(files, target):
    made = target()
    assert await lay_out(FakeClient({"context": TREE}), files, made) == 300_000 + 22 + 10 + 1
    found = look(made)
    assert found.keys() == TREE.keys()
    assert found["a"] == (0o040750, OLD, b"")
    assert found["a/big"] == (0o100600, OLD, TREE["a/big"].data)
    assert found["same"] == (0o100644, OLD, TREE["a/big"].data)
    assert found["a.b"][0] == 0o100755
    assert found["a/link"][2] == "../../etc/passwd"


async def test_only_what_changed_travels(files, target):
    client = FakeClient({"context": dict(TREE), "other": dict(TREE)})
    tree = client.directories["context"]
    assert await lay_out(client, files, target()) > 300_000
    client.sent.clear()
    await lay_out(client, files, target(), choice=Choice(paths=(".dockerignore",)))  # which says nothing of the others
    assert await lay_out(client, files, target()) == 0
    assert client.sent == []
    tree["a.b"] = file(b"#!/bin/sx\n", 0o755, mtime=OLD + 1)
    tree["new"] = file(b"1")
    del tree["Dockerfile"]
    made = target()
    assert await lay_out(client, files, made) == 11
    assert sorted(client.sent) == ["a.b", "new"]
    assert look(made)["a.b"][2] == b"#!/bin/sx\n"
    assert "Dockerfile" not in look(made)
    client.sent.clear()
    for name, key in (("other", "key"), ("context", "other")):  # what is known is one directory's of one client
        assert await lay_out(client, files, target(), name=name, key=key) > 300_000


@pytest.mark.parametrize(
    "change", [{"mtime": OLD + 1}, {"mode": 0o700}, {"data": b"#!/bin/sh\n\n"}, {"mtime": OLD - 10**9}], ids=str
)
async def test_any_difference_makes_a_file_travel(files, target, change):
    client = FakeClient({"context": dict(TREE)})
    await lay_out(client, files, target())
    client.sent.clear()
    client.directories["context"]["a.b"] = touched(TREE["a.b"], **change)
    await lay_out(client, files, target())
    assert client.sent == ["a.b"]


@pytest.mark.parametrize(("ago", "travels"), [(0, True), (60 * 10**9, False)])
async def test_a_file_that_may_change_without_a_sign_travels_again(files, target, ago, travels):
    now = incoming.time.time_ns() - ago
    client = FakeClient({"context": {"coarse": file(b"a", mtime=now - now % 10**9), "fine": file(b"b", mtime=now + 1)}})
    await lay_out(client, files, target())
    client.sent.clear()
    await lay_out(client, files, target())
    assert sorted(client.sent) == (["coarse", "fine"] if travels else [])


async def test_contents_that_are_gone_travel_again(files, target, tmp_path):
    client = FakeClient({"context": dict(TREE)})
    await lay_out(client, files, target())
    files.trim(1)
    client.sent.clear()
    made = target()
    await lay_out(client, files, made)
    assert "a/big" in client.sent
    assert look(made)["a/big"][2] == TREE["a/big"].data
    assert any(name.startswith("seen-") for name in os.listdir(tmp_path / "build-files"))
    files.trim(0)
    assert os.listdir(tmp_path / "build-files") == ["boot"]


async def test_without_a_key_nothing_is_remembered(files, target, tmp_path):
    client = FakeClient({"context": TREE})
    for _ in range(2):
        assert await lay_out(client, files, target(), key="") > 300_000
    assert not any(name.startswith("seen-") for name in os.listdir(tmp_path / "build-files"))


async def test_a_choice_is_the_clients_to_make(files, target):
    client = FakeClient({"dir": TREE})
    made = target()
    await lay_out(client, files, made, name="dir", choice=Choice(paths=("Dockerfile", "nothing", "a/empty")))
    assert look(made).keys() == {"Dockerfile", "a", "a/empty"}
    made = target()
    await lay_out(client, files, made, name="dir", choice=Choice(without=("a", "!a/empty", "*.b", "same")))
    assert look(made).keys() == {"Dockerfile", "a", "a/empty", "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve"}
    method, metadata = client.calls[-1]
    assert (method, metadata["dir-name"]) == ("DiffCopy", ["dir"])
    assert metadata["exclude-patterns"] == ["a", "!a/empty", "*.b", "same"]
    await lay_out(
        client, files, target(), name="dir", choice=Choice(without=("na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve x",))
    )
    metadata = client.calls[-1][1]
    assert (metadata["exclude-patterns"], metadata["exclude-patterns-encoded"]) == (["na%C3%AFve+x"], ["1"])


async def test_a_directory_that_the_client_does_not_give(files, target):
    with pytest.raises(SystemFailureError, match='failed to read files of the client: x: no access allowed to dir "x"'):
        await lay_out(FakeClient(), files, target(), name="x")
    async with joined({}) as channel:
        with pytest.raises(InvalidParameterError, match="the client sends no files"):
            await ClientSession(channel, files).lay_out("context", str(target()))


def sender(*packets, then=None):
    """Return a client that says these packets to whoever asks for files."""

    async def files(stream):
        for packet in packets:
            await stream.send(packet.encode())
        await (then(stream) if then else stream.receive())

    return {"/moby.filesync.v1.FileSync/DiffCopy": files}


def told(path, node):
    return Packet(kind=Kind.STAT, stat=stat_of(path, node))


LONG, PIECE = file(b"x" * (3 << 20)), Packet(kind=Kind.DATA, data=b"x" * (200 << 10))


async def leave(stream):
    await stream.receive()


async def fail(_stream):
    raise CallError(Code.UNKNOWN, "disk on fire")


@pytest.mark.parametrize(
    ("client", "error", "message"),
    [
        (sender(told("../../evil", file(b"x"))), InvalidParameterError, "invalid path"),
        (sender(told("a", link("/etc")), told("a/evil", file(b"x"))), InvalidParameterError, "no directory"),
        (
            sender(told("a", file(b"xy")), Packet(kind=Kind.DATA, number=0, data=b"xyz")),
            InvalidParameterError,
            "changed",
        ),
        (
            sender(told("a", file(b"xy")), Packet(kind=Kind.DATA, number=7, data=b"x")),
            InvalidParameterError,
            "not asked",
        ),
        (
            sender(told("a", file(b"xy")), Packet(kind=Kind.ERR, data=b"eh")),
            SystemFailureError,
            "error from sender: eh",
        ),
        (
            sender(told("a", file(b"xy")), Packet(kind=Kind.DATA, data=b"x"), then=leave),
            UnavailableError,
            "ended a transfer",
        ),
        (sender(told("a", file(b"xy")), then=fail), SystemFailureError, "disk on fire"),
        (sender(told("a", LONG), *[PIECE] * 12, Packet(kind=Kind.ERR, data=b"eh")), SystemFailureError, "sender: eh"),
    ],
)
async def test_nothing_is_left_of_a_transfer_that_failed(files, target, tmp_path, client, error, message):
    made = target()
    async with joined(client) as channel:
        with pytest.raises(error, match=message):
            await ClientSession(channel, files, shared_key="k").lay_out("context", str(made))
    assert os.listdir(made) == []
    assert sorted(os.listdir(tmp_path)) == sorted(["build-files", made.name])
    assert os.listdir(tmp_path / "build-files") == ["boot"]


async def test_no_more_files_are_asked_for_than_can_be_held_open(files, target):
    rounds = []

    async def watch(stream):
        for number in range(100):
            await stream.send(told(f"{number:03}", file(b"x")).encode())
        await stream.send(Packet().encode())
        while True:
            asked = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30) as patience:
                    while (packet := Packet.decode(await stream.receive())).kind != Kind.FIN:
                        asked.append(packet.number)
                        patience.reschedule(asyncio.get_running_loop().time() + 0.2)
                    break
            rounds.append(len(asked))
            for number in random.sample(asked, len(asked)):
                await stream.send(Packet(kind=Kind.DATA, number=number, data=b"x").encode())
                await stream.send(Packet(kind=Kind.DATA, number=number).encode())
        await stream.send(Packet(kind=Kind.FIN).encode())

    made = target()
    async with joined({"/moby.filesync.v1.FileSync/DiffCopy": watch}) as channel:
        await ClientSession(channel, files).lay_out("context", str(made))
    assert len(os.listdir(made)) == 100
    assert rounds == [32, 32, 32, 4]


NAMES = st.sampled_from(["a", "b", "a.b", "A", "\N{SNOWMAN}", "-", "z" * 200])


@st.composite
def trees(draw):
    tree = {}
    for path in draw(st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=12)):
        above = path.split("/")
        places = ["/".join(above[:depth]) for depth in range(1, len(above))]
        if path in tree or any(place in tree and not tree[place].mode >> 31 for place in places):
            continue
        for place in places:
            tree.setdefault(place, directory(draw(st.sampled_from([0o755, 0o700, 0o555]))))
        tree[path] = draw(
            st.one_of(
                st.builds(
                    file, st.binary(max_size=100_000), st.sampled_from([0o644, 0o4755, 0]), mtime=st.integers(0, OLD)
                ),
                st.builds(link, st.sampled_from(["/", "..", "a", "../../../x"])),
                st.just(directory()),
            )
        )
    return tree


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees(), st.randoms())
def test_any_tree_arrives(files, target, tree, chance):
    client = FakeClient({"context": tree})
    asyncio.run(lay_out(client, files, target()))
    for path in list(tree):  # some of it changes
        if chance.random() < 0.3 and not tree[path].mode >> 19:
            tree[path] = touched(tree[path], data=tree[path].data + b"x")
    made = target()
    asyncio.run(lay_out(client, files, made))
    found = look(made)
    assert found.keys() == tree.keys()
    for path, node in tree.items():
        assert found[path][2] == (node.link or node.data)
        if not node.link:
            assert found[path][1] == node.mtime
            assert found[path][0] & 0o777 == node.mode & 0o777


# Contexts: what is asked for, in which order.


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


# Secrets, agents, logins, outputs.


async def test_secrets(files):
    client = FakeClient(secrets={"a": b"\0secret", "long": b"x" * (500 << 10), "longer": b"x" * ((500 << 10) + 1)})
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files)
        assert await session.secret("a") == b"\0secret"
        assert await session.secret("b") is None
        assert len(await session.secret("long")) == 500 << 10
        with pytest.raises(InvalidParameterError, match="more than 512000 bytes: longer"):
            await session.secret("longer")


async def broken(_stream, _request):
    raise CallError(Code.UNKNOWN, "keychain is locked")


async def test_a_client_that_fails_or_has_no_service(files):
    async with joined({"/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(broken)}) as channel:
        session = ClientSession(channel, files)
        with pytest.raises(SystemFailureError, match="failed to get secret a: keychain is locked"):
            await session.secret("a")
        assert await session.credentials("registry.test") is ANONYMOUS
        assert not await session.has_agent("default")
        with pytest.raises(NotFoundError, match="unset ssh forward key"):
            await session.connect_agent("default")
        with pytest.raises(InvalidParameterError, match="takes no output"):
            await session.send_directory("/")
    async with joined({"/moby.filesync.v1.Auth/Credentials": unary(broken)}) as channel:
        session = ClientSession(channel, files)
        assert await session.secret("a") is None
        with pytest.raises(SystemFailureError, match=r"failed to get credentials for .*: keychain is locked"):
            await session.credentials("registry.test")


async def test_an_agent(files):
    client = FakeClient(agent=lambda data: data.upper())
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files)
        assert await session.has_agent("default")
        assert not await session.has_agent("other")
        first, second = [await session.connect_agent("default") for _ in range(2)]
        try:
            for sock in (second, first):
                sock.sendall(b"sign")
                assert await asyncio.to_thread(sock.recv, 100) == b"SIGN"
            first.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(first.recv, 100) == b""
            session.close()
            assert await asyncio.to_thread(second.recv, 100) == b""
        finally:
            first.close()
            second.close()
        assert client.calls[-1][1]["buildkit.ssh.id"] == ["default"]


async def test_logins(files):
    hub = "registry-1.docker.io"
    client = FakeClient(logins={hub: ("me", "pass"), "r.test:5000": ("", "token")})
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files)
        assert await session.credentials("docker.io") == Credentials("me", "pass")
        assert await session.credentials("r.test:5000") == Credentials(identity_token="token")
        assert await session.credentials("else.test") == ANONYMOUS


async def chunks(*pieces):
    for piece in pieces:
        yield piece


async def test_an_archive_is_sent(files):
    client = FakeClient()
    big = os.urandom(3_000_000)
    async with joined(client.methods()) as channel:
        await ClientSession(channel, files).send_archive(chunks(b"a", b"", big), exporter="1")
    assert client.taken == b"a" + big
    assert client.calls[0][1]["buildkit-attachable-exporter-id"] == ["1"]


async def test_a_directory_is_sent(files, tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    big = os.urandom(1_000_000)
    (root / "a" / "big").write_bytes(big)
    (root / "a.b").write_bytes(b"")
    os.chmod(root / "a.b", 0o4755)
    os.link(root / "a" / "big", root / "same")
    os.symlink("/etc/shadow", root / "link")
    os.mkfifo(root / "pipe")
    client = FakeClient(expects="files")
    async with joined(client.methods()) as channel:
        await ClientSession(channel, files).send_directory(str(root))
    found = {path: (told.mode, told.link, told.size, content) for path, (told, content) in client.taken.items()}
    assert list(found) == ["a", "a/big", "a.b", "link", "pipe", "same"]
    assert found["a/big"] == (0o644, b"", 1_000_000, big)
    assert found["a.b"] == (1 << 23 | 0o755, b"", 0, b"")
    assert found["link"][1] == b"/etc/shadow"
    assert found["same"] == (0o644, b"a/big", 0, None)
    assert found["pipe"][0] == 1 << 25 | 0o644


async def test_a_client_that_does_not_take_a_directory(files, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)

    async def refuse(stream):
        await stream.receive()
        raise CallError(Code.UNKNOWN, "read-only file system")

    async def ask_for_more(stream):
        await stream.send(Packet(kind=Kind.REQ, number=9).encode())
        await stream.receive()

    for method, error, message in (
        (refuse, OrlopError, "read-only file system"),
        (ask_for_more, InvalidParameterError, "unexpected packet of the client's: REQ of file 9"),
    ):
        async with joined({"/moby.filesync.v1.FileSend/DiffCopy": method}) as channel:
            with pytest.raises(error, match=message):
                await ClientSession(channel, files).send_directory(str(tmp_path))
