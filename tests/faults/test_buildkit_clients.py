"""R6, R7, R21, R22, I4 and I6 of faults.md for clients of BuildKit's protocol: gone, killed, greedy, or silent."""

import asyncio
import contextlib
import os
import secrets
import socket
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
from orlop.api.buildkit.control_messages import Exporter, SolveRequest, StatusRequest
from orlop.api.buildkit.fsutil import Kind, Packet, Stat
from orlop.api.grpc.framing import frame
from orlop.api.grpc.status import CallError

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]
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
    return [path.stat().st_size for path in (engine.data_root / "build-files").glob(".new-*")]


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
    text = dockerfile('RUN --mount=type=secret,id=s,env=WORD --mount=type=secret,id=s [ -n "$WORD" ] && sleep 1')
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


async def headers(engine):
    """A thousand calls, each with as many headers as h2 takes: the first one is too much."""
    peer = await Peer.of(engine)
    more = [(f"x{number}", "") for number in range(1500)]
    for number in range(1, 2000, 2):
        peer.begin(number, f"{CONTROL}Status", *more)
        if number % 100 == 1:
            await peer.flush()
            await asyncio.sleep(0.05)
    return peer.sock


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
    """A list of 300,000 files, and no end of it."""

    async def many(stream):
        for number in range(300_000):
            told = Stat(path=b"%09d" % number, mode=0o644, size=1, mtime=OLD + number)
            await stream.send(Packet(kind=Kind.STAT, stat=told).encode())
            stream._messages.clear()
        raise CallError(2, "enough")

    class Many(FakeClient):
        def methods(self):
            return {**super().methods(), FILES: self._answer}

        async def _answer(self, stream):
            if stream.metadata["dir-name"] == ["context"] and "followpaths" not in stream.metadata:
                await many(stream)
            await self._files(stream)

    client = Many({"context": {}, "dockerfile": {"Dockerfile": dockerfile("COPY . /x")}})
    with pytest.raises(CallError):
        await solve(engine, client, [IMAGE])
    return None


async def asked(engine):
    """Builds that ask for much, again and again."""
    attributes = {f"build-arg:X{number}": "x" * 1000 for number in range(5000)}
    async with control_of(engine) as control:
        calls = []
        for _ in range(60):
            request = SolveRequest(ref=secrets.token_hex(8), session="none", attributes=attributes)
            calls.append(asyncio.create_task(control.unary(f"{CONTROL}Solve", request.encode())))
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    return None


@pytest.mark.parametrize(("attack", "most"), [(messages, 160), (headers, 64), (unread, 96), (files, 256), (asked, 192)])
async def test_memory_has_a_bound(own_engine, attack, most):
    engine = own_engine
    before = peak(engine)
    held = await asyncio.wait_for(attack(engine), 100)
    await asyncio.sleep(0.5)
    assert engine.http("GET", "/_ping")[0] == 200
    grown = peak(engine) - before
    if held is not None:
        held.close()
    assert grown < most
    async with control_of(engine) as control:
        assert await control.unary(f"{CONTROL}Info", b"")


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
