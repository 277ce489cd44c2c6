"""What a client of BuildKit's protocol can do to the machine, to other clients, and to what is kept of them."""

import asyncio
import contextlib
import errno
import os
import resource
import secrets
import socket
import subprocess
import threading
import types

import pytest

from fake_buildkit_client import OLD, FakeClient, directory, file, joined, link, stat_of
from orlop.api.buildkit import jobs as jobs_module
from orlop.api.buildkit import status_log
from orlop.api.buildkit.client_session import ClientSession
from orlop.api.buildkit.control_messages import SolveRequest, SourceInfo
from orlop.api.buildkit.fsutil import Kind, Packet, Stat
from orlop.api.buildkit.jobs import Jobs
from orlop.api.buildkit.messages import BytesMessage, SecretResponse
from orlop.api.buildkit.outgoing import walk
from orlop.api.buildkit.sessions import OpenSessions
from orlop.api.buildkit.status_log import StatusLog
from orlop.api.grpc.holdings import Account, Holding, Ledger
from orlop.engine.builds import contents, context_files
from orlop.engine.builds.agents import listen
from orlop.engine.builds.context_files import ContextFiles
from orlop.errors import ConflictError, OrlopError, SystemFailureError, UnavailableError
from orlop.primitives.owned_fd import OwnedFd


@pytest.fixture
def files(tmp_path):
    return ContextFiles(str(tmp_path / "build-files"))


@pytest.fixture
def few_descriptors():
    """What a service's manager gives by default, here even less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def target_in(tmp_path):
    path = tmp_path / f"tree-{secrets.token_hex(8)}"
    path.mkdir()
    return str(path)


async def lay_out(client, files, target, *, key="key"):
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files, shared_key=key, directories={"context": "context"})
        await session.lay_out("context", target)
        return session.received


@pytest.fixture
def deep_path(tmp_path):
    """A directory for trees that Python's own functions do not remove."""
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path], check=True)


def deep(depth):
    paths = ["/".join("d" * count) for count in range(1, depth)]
    return {**{path: directory() for path in paths}, f"{paths[-1]}/file": file(b"x"), "e": file(b"y")}


async def test_however_deep_a_tree_is_few_descriptors_are_open(deep_path, few_descriptors):
    files, target = ContextFiles(str(deep_path / "build-files")), target_in(deep_path)
    await lay_out(FakeClient({"context": deep(2000)}), files, target)
    with OwnedFd(os.open(target, os.O_RDONLY)) as root:
        told = list(walk(root.fileno()))
    assert (len(told), max(map(len, (one.path for one in told)))) == (2001, 4002)


def test_a_tree_deeper_than_paths_are_long_is_an_error_in_words(deep_path):
    path = os.open(deep_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=path)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=path)
        os.close(path)
        path = below
    os.close(path)
    with OwnedFd(os.open(deep_path, os.O_RDONLY)) as root, pytest.raises(OSError, match="name too long") as caught:
        list(walk(root.fileno()))
    assert caught.value.errno == errno.ENAMETOOLONG


async def test_names_that_only_look_dangerous_are_names(files, tmp_path):
    target = target_in(tmp_path)
    names = ["..\\..\\evil", "...", ".. ", "-rf", "a\nb", "C:", "~", "%2e%2e", "\x1b[31m"]
    await lay_out(FakeClient({"context": {name: file(b"x") for name in names}}), files, target)
    assert sorted(os.listdir(target)) == sorted(names)


async def test_attributes_that_steer_the_kernel_stay_away(files, tmp_path):
    target = target_in(tmp_path)
    steering = {
        "trusted.overlay.opaque": b"y",
        "user.overlay.redirect": b"/",
        "security.selinux": b"x",
        "system.a": b"x",
    }
    tree = {"d": directory(xattrs=steering), "d/f": file(b"x", 0o4755 & 0o777 | 1 << 23, xattrs=steering)}
    await lay_out(FakeClient({"context": tree}), files, target)
    for path in ("d", "d/f"):
        assert not {name for name in os.listxattr(f"{target}/{path}") if not name.startswith("security.")}
    assert os.stat(f"{target}/d/f").st_mode & 0o7777 == 0o4755


async def test_threads_are_left_for_others(files, tmp_path, monkeypatch):
    """Each context is laid out in a thread, however long that takes."""
    held, begun = threading.Event(), []

    def hold(*_):
        begun.append(1)
        held.wait(60)

    monkeypatch.setattr(files, "lay_out", hold)
    client = FakeClient({"context": {"a": file(b"x")}})
    async with joined(client.methods()) as channel:
        laying = [
            asyncio.create_task(ClientSession(channel, files).lay_out("context", target_in(tmp_path)))
            for _ in range(40)
        ]
        try:
            while len(client.sent) < 40 or len(begun) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 30) == 1
        finally:
            held.set()
            await asyncio.gather(*laying)


async def test_lists_of_all_clients_have_an_end(files, tmp_path, monkeypatch):
    monkeypatch.setattr(context_files, "_MOST_LISTED", 5)
    waiting = asyncio.Event()

    async def slow(stream):
        for number in range(3):
            await stream.send(Packet(kind=Kind.STAT, stat=stat_of(str(number), file())).encode())
        await waiting.wait()

    async with joined({"/moby.filesync.v1.FileSync/DiffCopy": slow}) as channel:
        first = asyncio.create_task(ClientSession(channel, files).lay_out("context", target_in(tmp_path)))
        while files._listed < 3:
            await asyncio.sleep(0.01)
        with pytest.raises(UnavailableError, match="too many files in all contexts"):
            await ClientSession(channel, files).lay_out("context", target_in(tmp_path))
        assert files._listed == 3
        waiting.set()
        with pytest.raises(OrlopError):
            await first
    assert files._listed == 0


async def test_what_one_client_sent_is_nothing_to_another(files, tmp_path):
    """The same names, sizes and times: only who knows a client's key is that client (as with BuildKit)."""
    good, evil = (FakeClient({"context": {"run.sh": file(data)}}) for data in (b"good", b"evil"))
    assert await lay_out(good, files, target_in(tmp_path), key="a") == 4
    assert await lay_out(evil, files, target_in(tmp_path), key="b") == 4
    target = target_in(tmp_path)
    assert await lay_out(good, files, target, key="a") == 0
    with open(f"{target}/run.sh", "rb") as found:
        assert found.read() == b"good"


async def test_a_content_is_what_it_is_whatever_was_said_of_it(files, tmp_path):
    """A client can only fool itself: what it sends is kept under the digest of what came."""
    await lay_out(FakeClient({"context": {"f": file(b"evil")}}), files, target_in(tmp_path), key="a")
    target = target_in(tmp_path)
    assert await lay_out(FakeClient({"context": {"f": file(b"good")}}), files, target, key="") == 4
    with open(f"{target}/f", "rb") as found:
        assert found.read() == b"good"


@pytest.mark.parametrize("when", [1, 3])
async def test_a_disk_that_is_full(files, tmp_path, monkeypatch, when):
    """In the middle of a file, or between files: the client is told, and nothing is left."""
    writes, write = 0, os.write

    def full(fd, data):
        nonlocal writes
        writes += 1
        if writes >= when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(contents, "os", types.SimpleNamespace(**{**vars(os), "write": full}))
    tree = {f"f{number}": file(os.urandom(3 << 20)) for number in range(3)}
    with pytest.raises(SystemFailureError, match="receive context: no space left on device"):
        await lay_out(FakeClient({"context": tree}), files, target_in(tmp_path))
    left = [name for name in os.listdir(tmp_path / "build-files") if name.startswith((".new", "seen"))]
    assert left == []


async def test_a_file_of_a_terabyte_is_not_waited_for_in_memory(files, tmp_path):
    async def lie(stream):
        await stream.send(Packet(kind=Kind.STAT, stat=Stat(path=b"a", mode=0o644, size=1 << 40, mtime=OLD)).encode())
        await stream.send(Packet(kind=Kind.STAT).encode())
        await stream.receive()
        for _ in range(64):
            await stream.send(Packet(kind=Kind.DATA, data=bytes(1 << 20)).encode())

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with joined({"/moby.filesync.v1.FileSync/DiffCopy": lie}) as channel:
        with pytest.raises(UnavailableError, match="ended a transfer"):
            await ClientSession(channel, files).lay_out("context", target_in(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 << 10
    assert os.listdir(tmp_path / "build-files") == ["boot"]


def test_secrets_are_not_in_what_is_written_of_messages():
    for message in (SecretResponse(data=b"hunter2"), BytesMessage(data=b"hunter2")):
        assert "hunter2" not in repr(message)


def session_headers(name):
    return {"x-docker-expose-session-uuid": [name]}


async def test_a_name_is_one_clients_also_when_two_come_at_once():
    """Who comes second could take the files and secrets of the first's build, or give it its own."""
    sessions = OpenSessions()
    pairs = [socket.socketpair() for _ in range(3)]
    serving = [
        asyncio.create_task(sessions.serve(session_headers("one"), OwnedFd(ours.detach()), b"")) for ours, _ in pairs
    ]
    session = await sessions.wait("one")
    await asyncio.sleep(0.05)
    assert [task.done() for task in serving] == [False, True, True]
    for task in serving[1:]:
        with pytest.raises(ConflictError):
            await task
    assert (await sessions.wait("one")) is session
    for _, theirs in pairs:
        theirs.close()
    await asyncio.wait_for(serving[0], 60)
    assert sessions.name_in(session_headers("one")) == "one"


def jobs():
    return Jobs(types.SimpleNamespace(sessions=None), OpenSessions())


def request_(ref):
    return SolveRequest(ref=ref, session="none")


async def test_what_builds_ask_for_is_counted_until_they_are_forgotten(monkeypatch):
    monkeypatch.setattr(jobs_module, "_MOST_ENDED", 1)
    account = Account(Ledger(1000), "me")

    def asked(size):
        holding = Holding(account)
        holding.add(size)
        return holding

    builds = jobs()
    async with builds.begin(request_("a"), asked(100)) as job:
        job.hold(asked(50))
        with pytest.raises(ConflictError):
            async with builds.begin(request_("a"), asked(10)):
                pass
        assert account.held == 150
    assert account.held == 150  # somebody may ask for its result
    async with builds.begin(request_("b"), asked(200)):
        pass
    assert account.held == 200
    builds._forget(builds.find("b"))
    assert account.held == account.ledger.held == 0


async def test_what_is_told_of_builds_that_are_over_is_bounded(monkeypatch):
    monkeypatch.setattr(jobs_module, "_ENDED_BYTES", 3 << 20)
    builds = jobs()
    for number in range(20):
        async with builds.begin(request_(str(number)), Holding(Account(Ledger(), "me"))) as job:
            job.log.step("x").write(1, bytes(1 << 20))
    assert sum(job.log.size for job in builds._ended.values()) < 4 << 20
    assert "19" in builds._ended


async def test_warnings_do_not_tell_a_large_file_again_and_again():
    """A Dockerfile of four megabytes with five hundred findings: each is told with the lines that it is about."""
    log = StatusLog("ref")
    reader = log.read()
    first = asyncio.create_task(anext(reader))
    await asyncio.sleep(0)
    step = log.step("x")
    for line in range(500):
        step.warn("short", "detail", url="", source=SourceInfo(filename="Dockerfile", data=bytes(1 << 20)), line=line)
    assert log.size < 8 << 20
    assert len(await first) > 1 << 20
    log.close()
    assert len([data async for data in reader]) == 499


async def test_what_a_slow_reader_leaves_is_bounded():
    log = StatusLog("ref")
    reader = log.read()
    first = asyncio.create_task(anext(reader))
    await asyncio.sleep(0)
    step = log.step("x")
    for _ in range(1000):
        step.write(1, bytes(100_000))
    assert log.size < 40 << 20
    await first
    await reader.aclose()


async def test_a_build_does_not_wait_for_a_reader_that_stopped(monkeypatch):
    """Another client may have asked for this build's progress, and read nothing of it."""
    monkeypatch.setattr(status_log, "_PATIENCE", 0.1)
    log = StatusLog("ref")
    slow, quick = log.read(), log.read()
    firsts = [asyncio.create_task(anext(reader)) for reader in (slow, quick)]
    await asyncio.sleep(0)
    step = log.step("x")
    step.write(1, b"first")
    await asyncio.gather(*firsts)
    told = asyncio.create_task(drained(quick))
    for _ in range(200):
        step.write(1, bytes(100_000))
        await asyncio.wait_for(log.wait_room(), 60)
    log.close()
    assert await told == 200
    with pytest.raises(UnavailableError, match="too slow"):
        await drained(slow)


async def drained(reader):
    return len([data async for data in reader])


async def test_readers_of_one_build_have_an_end():
    log = StatusLog("ref")
    readers = [log.read() for _ in range(17)]
    tasks = [asyncio.create_task(anext(reader)) for reader in readers]
    with pytest.raises(UnavailableError, match="too many readers"):
        await asyncio.wait_for(tasks[-1], 60)
    log.step("x").start()
    await asyncio.gather(*tasks[:-1])
    for reader in readers:
        await reader.aclose()


async def test_a_step_cannot_take_all_descriptors_by_its_agent(tmp_path):
    """A command that connects and never leaves: each connection is four descriptors of the engine's."""
    connected, path, ends = 0, str(tmp_path / "agent"), []

    async def connect():
        nonlocal connected
        connected += 1
        ours, theirs = socket.socketpair()
        ends.append(ours)
        return theirs

    with contextlib.ExitStack() as stack:
        async with listen(path, connect):
            for _ in range(120):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, path)
            async with asyncio.timeout(60):
                while connected < 64:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert connected == 64
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            for end in ends[:10]:
                end.close()
            await asyncio.sleep(0.1)
        for end in ends:
            end.close()


async def test_links_are_never_followed(files, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = target_in(tmp_path)
    tree = {"a": link(str(outside)), "b": link("/"), "c": directory(), "c/d": link("../a")}
    await lay_out(FakeClient({"context": tree}), files, target)
    assert (os.readlink(f"{target}/a"), os.listdir(outside)) == (str(outside), [])
