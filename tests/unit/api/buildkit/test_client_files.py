"""Directories that a client sends on its session, against one in memory that speaks gRPC."""

import asyncio
import contextlib
import os
import random
import secrets
import time
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_buildkit_client import OLD, TREE, FakeClient, directory, file, joined, link, look, stat_of, touched
from orlop.api.buildkit import incoming
from orlop.api.buildkit.client_session import ClientSession
from orlop.api.buildkit.fsutil import Kind, Packet
from orlop.api.grpc.status import CallError, Code
from orlop.engine.builds.client import Choice
from orlop.engine.builds.context_files import ContextFiles
from orlop.errors import InvalidParameterError, SystemFailureError, UnavailableError


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
async def test_a_file_that_may_change_without_a_sign_travels_again(files, target, monkeypatch, ago, travels):
    now = time.time_ns()  # for as long as it takes: what is fine is settled a few milliseconds later
    monkeypatch.setattr(incoming, "time", types.SimpleNamespace(time_ns=lambda: now))
    then = now - ago
    context = {"coarse": file(b"a", mtime=then - then % 10**9), "fine": file(b"b", mtime=then + 1)}
    client = FakeClient({"context": context})
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
        for expected in (32, 32, 32, 4):
            asked = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30) as patience:
                    while True:
                        if len(asked) == expected:  # one more would be too many
                            patience.reschedule(asyncio.get_running_loop().time() + 0.2)
                        packet = Packet.decode(await stream.receive())
                        assert packet.kind == Kind.REQ
                        asked.append(packet.number)
            rounds.append(len(asked))
            for number in random.sample(asked, len(asked)):
                await stream.send(Packet(kind=Kind.DATA, number=number, data=b"x").encode())
                await stream.send(Packet(kind=Kind.DATA, number=number).encode())
        assert Packet.decode(await stream.receive()).kind == Kind.FIN
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
def test_any_tree_arrives(tmp_path, target, tree, chance):
    # of this example: by size and times a file may be one that another example had, with other data
    files = ContextFiles(str(tmp_path / secrets.token_hex(8)))
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
