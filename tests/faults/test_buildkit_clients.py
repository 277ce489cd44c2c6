"""R6, R7, R21, R22, I4 and I6 of faults.md for clients of BuildKit's protocol: gone, killed, greedy, or silent."""

import asyncio
import contextlib
import os
import secrets
import socket
import struct
import sys
from pathlib import Path

import pytest
from buildkit_lab import control_of, solve, upgraded
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from conftest import settled_state
from fake_buildkit_client import OLD, FakeClient, file
from harness import wait_for
from host_state import HostState
from orlop.api.buildkit import status_log
from orlop.api.buildkit.control_messages import Exporter, SolveRequest, StatusRequest
from orlop.api.buildkit.fsutil import Kind, Packet, Stat
from orlop.api.grpc.framing import frame
from orlop.api.grpc.holdings import CONNECTION_COST, CONNECTION_LIMIT, TOTAL_LIMIT
from orlop.api.grpc.status import CallError, Code
from orlop.api.grpc.windows import MOST_WINDOW, WINDOW

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
IDLE = CONNECTION_COST + WINDOW
CONTROL = "/moby.buildkit.v1.Control/"
FILES = "/moby.filesync.v1.FileSync/DiffCopy"
HIDDEN = "a-word-that-is-nowhere-else"
IMAGE = Exporter(type="moby", attributes={"name": "hostile:latest"})


def dockerfile(*lines):
    return file("\n".join(["FROM busybox", *lines, ""]).encode())


class Stalls(FakeClient):
    """Sends half of a large file, and then nothing more."""

    def methods(self):
        return {**super().methods(), FILES: self._stall}

    async def _stall(self, stream):
        if stream.metadata["dir-name"] != ["context"] or "followpaths" in stream.metadata:
            await self._files(stream)
            return
        await stream.send(Packet(kind=Kind.STAT, stat=Stat(path=b"big", size=48 << 20, mtime=OLD, mode=0o644)).encode())
        await stream.send(Packet(kind=Kind.STAT).encode())
        for _ in range(24):
            await stream.send(Packet(kind=Kind.DATA, data=os.urandom(1 << 20)).encode())
        await asyncio.Event().wait()


def stalls():
    return Stalls({"context": {}, "dockerfile": {"Dockerfile": dockerfile("COPY big /")}})


def directories(engine):
    return [*os.listdir(engine.data_root / "builds"), *os.listdir(engine.exec_root / "builds")]


def coming(engine):
    """Return the sizes of contents that are on their way."""
    sizes = []
    for path in (engine.data_root / "build-files").glob(".new-*"):
        with contextlib.suppress(FileNotFoundError):  # it came
            sizes.append(path.stat().st_size)
    return sizes


def left(before, engine):
    return before.differences(HostState.of(engine))


async def until(condition, *, seconds=20):
    await asyncio.to_thread(wait_for, condition, seconds=seconds)


async def test_killed_while_files_come(own_engine):
    engine = own_engine
    before = settled_state(engine)
    building = asyncio.create_task(solve(engine, stalls(), [IMAGE]))
    await until(lambda: sum(coming(engine)) > 10 << 20)
    engine.kill()
    with pytest.raises((CallError, OSError)):
        await building
    await asyncio.to_thread(engine.start)
    await until(lambda: directories(engine) == coming(engine) == [])
    await until(lambda: left(before, engine) == {})
    client = FakeClient({"context": {"big": file(b"x")}, "dockerfile": {"Dockerfile": dockerfile("COPY big /")}})
    await solve(engine, client, [IMAGE])
    assert client.sent == ["Dockerfile", "big"]


@pytest.mark.parametrize("what", ["files", "step"])
async def test_a_client_that_vanishes(own_engine, what):
    """Both of its connections are cut: its build ends, and all that was its build's goes."""
    engine = own_engine
    before = settled_state(engine)
    client = stalls()
    if what == "step":
        mounts = "--mount=type=secret,id=s --mount=type=cache,target=/c --mount=type=ssh"
        text = dockerfile(f"RUN {mounts} cat /run/secrets/s >/dev/null && sleep 1000")
        client = FakeClient(
            {"context": {}, "dockerfile": {"Dockerfile": text}}, secrets={"s": HIDDEN.encode()}, agent=lambda data: data
        )
    building = asyncio.create_task(solve(engine, client, [IMAGE]))
    if what == "step":
        await until(lambda: engine.docker("ps", "-q").stdout)
    else:
        await until(lambda: sum(coming(engine)) > 10 << 20)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    await until(lambda: directories(engine) == coming(engine) == [])
    await until(lambda: not engine.docker("ps", "-aq").stdout)
    caches = lambda: engine.docker("builder", "prune", "-af") and left(before, engine)  # noqa: E731 - asked again
    await until(lambda: caches() == {})


async def test_a_secret_is_nowhere(own_engine):
    """Neither on disk while its step runs or afterwards, nor in what is said and kept of the build."""
    engine, ref = own_engine, secrets.token_hex(8)
    text = dockerfile(
        'RUN --mount=type=secret,id=s,env=WORD --mount=type=secret,id=s [ -n "$WORD" ] && until [ -e /go ]; do sleep 0.1; done'
    )
    client = FakeClient({"context": {}, "dockerfile": {"Dockerfile": text}}, secrets={"s": HIDDEN.encode()})

    def on_disk():
        found = []
        for root, _, names in os.walk(engine.home):
            for path in (Path(root, name) for name in names):
                with contextlib.suppress(OSError):
                    if path.is_file() and not path.is_symlink() and HIDDEN.encode() in path.read_bytes():
                        found.append(path)
        return found

    building = asyncio.create_task(solve(engine, client, [IMAGE], **{"build-arg:X": ref}))
    await until(lambda: engine.docker("ps", "-q").stdout)
    while_running = await asyncio.to_thread(on_disk)
    (step,) = engine.docker("ps", "-q").stdout.split()
    await asyncio.to_thread(engine.docker, "exec", step, "touch", "/go", check=False)  # it may be killed with its step
    await building
    assert [path for path in while_running if not path.is_relative_to(engine.exec_root)] == []
    assert on_disk() == []
    told = engine.docker("history", "--no-trunc", "hostile").stdout + engine.docker("inspect", "hostile").stdout
    assert HIDDEN not in told + engine.log_text()


def peak(engine):
    """Return the most memory that the engine has had, in MiB."""
    status = Path(f"/proc/{engine.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) >> 10


class Peer:
    """A client of gRPC that reads only when it is told to."""

    def __init__(self, sock):
        self.sock = sock
        self.protocol = H2Connection(H2Configuration(client_side=True))
        self.protocol.initiate_connection()

    @classmethod
    async def of(cls, engine):
        fd, _ = await upgraded(engine, "/grpc")
        sock = socket.socket(fileno=fd.release())
        sock.setblocking(True)
        sock.settimeout(20)
        return cls(sock)

    def begin(self, number, method, *more):
        headers = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x"), *more]
        self.protocol.send_headers(number, headers)

    async def flush(self):
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self.sock.sendall, self.protocol.data_to_send())

    async def hear(self):
        with contextlib.suppress(Exception):  # it may have been let go
            self.protocol.receive_data(await asyncio.to_thread(self.sock.recv, 1 << 20))
            await self.flush()


async def messages(engine):
    """Whole messages that nobody asks for."""
    peer = await Peer.of(engine)
    await peer.flush()
    await peer.hear()
    for number in range(1, 41, 2):
        peer.begin(number, f"{CONTROL}Status")
        data = frame(StatusRequest(ref="none").encode()) + frame(bytes(15 << 20))
        peer.protocol.outbound_flow_control_window = 2**31 - 1
        peer.protocol.streams[number].outbound_flow_control_window = 2**31 - 1
        for start in range(0, len(data), 16_000):
            peer.protocol.send_data(number, data[start : start + 16_000])
        await peer.flush()
    return peer.sock


async def wanted(engine):
    """Messages that are waited for, each but for its last byte; who sends them heeds the windows."""
    headers = [{"x-docker-expose-session-uuid": secrets.token_hex(8)} for _ in range(20)]
    async with control_of(engine) as control:
        streams = [await control.stream(f"{CONTROL}Session", one) for one in headers]
        begun = frame(bytes(15 << 20))[:-1]
        sent = await asyncio.gather(*(control._connection.send(one, begun) for one in streams), return_exceptions=True)
        assert 2 < sent.count(None) <= CONNECTION_LIMIT // len(begun)
        assert {one.code for one in sent if one is not None} == {Code.RESOURCE_EXHAUSTED}
        for stream in streams:
            stream.close()
    return None


def call_with(number, headers):
    """Return a call's frame, whose headers are told in full."""
    path = f"{CONTROL}Status".encode()
    block = b"\x83\x86\x04" + bytes((len(path),)) + path + b"\x01\x01x"
    block += b"".join(b"\0\x05x%04d\0" % one for one in range(headers))
    return struct.pack(">I", len(block))[1:] + b"\x01\x04" + struct.pack(">I", number) + block


async def headers(engine, count=400):
    """A thousand calls, each with nearly as many headers as h2 takes."""
    peer = await Peer.of(engine)
    await peer.flush()
    with contextlib.suppress(OSError):
        for number in range(1, 2000, 2):
            await asyncio.to_thread(peer.sock.sendall, call_with(number, count))
    return peer.sock


async def too_many_headers(engine):
    """The first call has too many."""
    return await headers(engine, 1500)


async def unread(engine):
    """What is told of a large Dockerfile with hundreds of findings, to who asks for it and reads nothing."""
    ref, peer = secrets.token_hex(8), await Peer.of(engine)
    peer.protocol.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    peer.begin(1, f"{CONTROL}Status")
    peer.protocol.send_data(1, frame(StatusRequest(ref=ref).encode()), end_stream=True)
    await peer.flush()
    text = dockerfile(*["ENV a 1"] * 300, *[f"# {'x' * 1000}"] * 1000)
    await solve(engine, FakeClient({"context": {}, "dockerfile": {"Dockerfile": text}}), [IMAGE], ref=ref)
    return peer.sock


async def files(engine):
    """A list of many files, and no end of it."""
    listed = bytearray()
    for number in range(LISTED):
        told = Stat(path=b"%09d" % number, mode=0o644, size=1, mtime=OLD + number)
        listed += frame(Packet(kind=Kind.STAT, stat=told).encode())

    class Many(FakeClient):
        def methods(self):
            return {**super().methods(), FILES: self._answer}

        async def _answer(self, stream):
            if stream.metadata["dir-name"] == ["context"] and "followpaths" not in stream.metadata:
                await stream.send(Packet(kind=Kind.STAT, stat=Stat(path=b"#", mode=0o644, size=1)).encode())
                await stream._connection.send(stream, bytes(listed))
                raise CallError(2, "enough")
            await self._files(stream)

    client = Many({"context": {}, "dockerfile": {"Dockerfile": dockerfile("COPY . /x")}})
    with pytest.raises(CallError, match="enough"):
        await solve(engine, client, [IMAGE])
    return None


@contextlib.asynccontextmanager
async def asking(engine, connections):
    """Have builds on their way that ask for much, as many as there is room for; yields the errors of those refused."""
    attributes = {f"build-arg:X{number}": "x" * 1000 for number in range(5000)}
    calls = []
    async with contextlib.AsyncExitStack() as stack:
        controls = [await stack.enter_async_context(control_of(engine)) for _ in range(connections)]
        for number in range(60):
            request = SolveRequest(ref=secrets.token_hex(8), session="none", attributes=attributes)
            calls.append(asyncio.create_task(controls[number % connections].unary(f"{CONTROL}Solve", request.encode())))
            await asyncio.sleep(0)
        refused, waiting = await asyncio.wait(calls, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        while more := (await asyncio.wait(waiting, timeout=1, return_when=asyncio.FIRST_COMPLETED))[0]:
            refused |= more
            waiting -= more
        yield [call.exception() for call in refused]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def asked(engine):
    """Builds that ask for much, again and again."""
    async with asking(engine, 1) as refused:
        assert {error.code for error in refused} == {Code.RESOURCE_EXHAUSTED}
    return None


async def asked_on_many(engine):
    """The same on several connections of one program, each within its own bound."""
    async with asking(engine, 6) as refused:
        assert {error.code for error in refused} == {Code.RESOURCE_EXHAUSTED}
    return None


LISTED = 60_000
# what is held at most, by what the code says of it
BOUNDS = {
    messages: IDLE + MOST_WINDOW,
    wanted: CONNECTION_LIMIT,
    headers: CONNECTION_LIMIT,
    too_many_headers: IDLE,
    unread: status_log._MOST_BYTES,
    files: LISTED * 640 + IDLE + MOST_WINDOW,
    asked: CONNECTION_LIMIT,
    asked_on_many: TOTAL_LIMIT // 2,
}


@pytest.mark.parametrize("attack", BOUNDS, ids=lambda attack: attack.__name__)
async def test_memory_has_a_bound(own_engine, attack):
    """What is held has one, whatever comes when; an allocator keeps some more, and one message is taken apart."""
    engine = own_engine
    before = peak(engine)
    held = await asyncio.wait_for(attack(engine), 100)
    await asyncio.sleep(0.5)
    assert engine.http("GET", "/_ping")[0] == 200
    grown = peak(engine) - before
    if held is not None:
        held.close()
    print(f"{attack.__name__}: {grown} MiB of {BOUNDS[attack] >> 20}")
    assert grown < (BOUNDS[attack] * 5 // 4 >> 20) + 24
    async with control_of(engine) as control:
        assert await control.unary(f"{CONTROL}Info", b"")


OTHER = """
import asyncio, os, sys, types
from buildkit_lab import solve
from fake_buildkit_client import FakeClient, file
from orlop.api.buildkit.control_messages import Exporter

TEXT = b"FROM busybox\\nARG A\\nCOPY . /c\\nRUN test $(ls /c | wc -l) = 530 && test $(cat /c/* | wc -c) = 30001390\\n"
context = {f"big{number}": file(os.urandom(1_000_000)) for number in range(30)}
context |= {f"f{number}": file(b"%d" % number) for number in range(500)}
client = FakeClient({"context": context, "dockerfile": {"Dockerfile": file(TEXT)}})
image = Exporter(type="moby", attributes={"name": "other:latest"})
engine = types.SimpleNamespace(socket=sys.argv[1])
asyncio.run(solve(engine, client, [image], **{"build-arg:A": "x" * 100_000}))
"""


async def test_who_asks_for_too_much_leaves_room_for_others(own_engine):
    """A build of another program goes on as always while one holds all that it may."""
    engine = own_engine
    async with asking(engine, 6) as refused:
        assert refused
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", OTHER, str(engine.socket)]
        other = await asyncio.create_subprocess_exec(*command, env=environment)
        assert await asyncio.wait_for(other.wait(), 100) == 0
    assert engine.docker("image", "inspect", "other").returncode == 0


async def test_others_are_answered_meanwhile(own_engine):
    """Floods on ten connections: a short question is answered in no more than a second."""
    engine = own_engine
    flood = (b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 60_000
    peers = [await Peer.of(engine) for _ in range(10)]
    for peer in peers:
        await peer.flush()

    def say(peer):
        with contextlib.suppress(OSError):
            peer.sock.sendall(flood)

    floods = [asyncio.create_task(asyncio.to_thread(say, peer)) for peer in peers]
    loop, worst = asyncio.get_running_loop(), 0.0
    while not all(task.done() for task in floods):
        began = loop.time()
        assert (await asyncio.to_thread(engine.http, "GET", "/_ping"))[0] == 200
        worst = max(worst, loop.time() - began)
    for peer in peers:
        peer.sock.close()
    assert worst < 10
