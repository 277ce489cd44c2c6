"""Clients that come by TLS, good ones and others, against the application itself."""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest
from tls_lab import Material

from orlop.api import tls as tls_module
from orlop.api.app import Application
from orlop.api.call import Call, Route
from orlop.api.hijack import hijack
from orlop.api.responses import json_response
from orlop.tls.material import client_context, server_context

ATTACH = b"POST /v1.50/containers/x/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
PING = b"GET /_ping HTTP/1.1\r\nHost: engine.example:2376\r\n%s\r\n"


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    return Material(tmp_path_factory.mktemp("tls") / "material")


class Engine:
    """An application behind TLS."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.pings = 0
        self.taken: list[tuple[socket.socket, bytes]] = []
        self.app = Application(
            [Route("GET", "/_ping", self._ping), Route("POST", "/containers/{name}/attach", self._attach)]
        )

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.address = listener.getsockname()
        files = [str(self.material.server / name) for name in ("cert.pem", "key.pem", "ca.pem")]
        await self.app.listen(listener, server_context(*files))

    async def _ping(self, _call: Call):
        self.pings += 1
        return json_response({"ping": self.pings})

    async def _attach(self, call: Call):
        taken = await hijack(call)
        self.taken.append((socket.socket(fileno=taken.fd.release()), taken.preface))
        return taken.response

    def context(self, directory, **options) -> ssl.SSLContext:
        return client_context(
            authority=str(self.material.server / "ca.pem"),
            certificate=str(directory / "cert.pem"),
            key=str(directory / "key.pem"),
            **options,
        )

    async def connect(self, context: ssl.SSLContext | None = None):
        context = context or self.context(self.material.client)
        return await asyncio.open_connection(*self.address, ssl=context, server_hostname="127.0.0.1")

    async def ask(self, extra: bytes = b"") -> bytes:
        reader, writer = await self.connect()
        writer.write(PING % extra)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer


@pytest.fixture
async def engine(material):
    engine = Engine(material)
    await engine.start()
    yield engine
    for sock, _ in engine.taken:
        sock.close()
    await engine.app.close(0.1)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def settle(count: int) -> None:
    """Wait until there are no more descriptors than ``count``."""
    async with asyncio.timeout(60):
        while descriptors() > count:
            await asyncio.sleep(0.02)


async def test_good_client_by_any_name_but_no_browser(engine) -> None:
    assert (await engine.ask()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert (await engine.ask(b"Origin: https://evil.example\r\n")).startswith(b"HTTP/1.1 403 ")
    assert engine.pings == 1


async def test_a_connection_serves_many_requests(engine) -> None:
    before = descriptors()
    reader, writer = await engine.connect()
    for _ in range(3):
        writer.write(PING % b"")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
    await settle(before)
    assert engine.pings == 3


async def test_hijacked_connection_is_a_local_socket(engine) -> None:
    before = descriptors()
    reader, writer = await engine.connect()
    writer.write(ATTACH + b"early bytes")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 UPGRADED")
    ((local, preface),) = engine.taken
    local.setblocking(False)
    assert local.family == socket.AF_UNIX
    loop = asyncio.get_running_loop()
    early = preface
    while len(early) < 11:
        early += await loop.sock_recv(local, 100)
    assert early == b"early bytes"
    data = os.urandom(2_000_000)
    sending = asyncio.create_task(loop.sock_sendall(local, data))
    assert await reader.readexactly(len(data)) == data
    await sending
    writer.write(b"later bytes")
    assert await loop.sock_recv(local, 100) == b"later bytes"
    local.close()
    assert await reader.read() == b""
    writer.close()
    engine.taken.clear()
    await settle(before)


async def _tried(engine, context: ssl.SSLContext) -> bytes | ssl.SSLError:
    """Return what a client of this context reads after asking; in TLS 1.3 it learns of its certificate only there."""
    try:
        reader, writer = await engine.connect(context)
        writer.write(PING % b"")
        try:
            return await asyncio.wait_for(reader.read(100), 60)
        finally:
            writer.close()
    except (ssl.SSLError, ConnectionError) as error:
        return error


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
async def test_nobody_else_gets_anything(engine, material, version) -> None:
    before = descriptors()
    nobody = client_context(authority=str(material.server / "ca.pem"))
    foreign = engine.context(material.stranger)
    engines = engine.context(material.server)  # of the right authority, but no certificate of a client
    for context in (nobody, foreign, engines):
        context.maximum_version = version
        assert isinstance(await _tried(engine, context), ssl.SSLError)
    await settle(before)
    assert engine.pings == 0
    assert (await engine.ask()).startswith(b"HTTP/1.1 200")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_old_versions_are_refused(engine) -> None:
    context = engine.context(engine.material.client)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert isinstance(await _tried(engine, context), (ssl.SSLError, ConnectionError))
    assert engine.pings == 0


async def test_plain_http_is_told(engine) -> None:
    reader, writer = await asyncio.open_connection(*engine.address)
    writer.write(PING % b"")
    assert (await reader.read()).endswith(b"Client sent an HTTP request to an HTTPS server.\n")
    writer.close()
    assert engine.pings == 0


async def test_garbage_disturbs_nobody(engine) -> None:
    before = descriptors()
    good, writer = await engine.connect()
    for garbage in (b"\0" * 100, b"\x16\x03\x01\xff\xff" + os.urandom(70_000), os.urandom(1000), b"\x16", b""):
        _, stranger = await asyncio.open_connection(*engine.address)
        stranger.write(garbage)
        with contextlib.suppress(ConnectionError):
            await stranger.drain()
        stranger.close()
    writer.write(PING % b"")
    assert (await good.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    await settle(before)


async def test_slow_handshake_is_cut_off(engine, monkeypatch) -> None:
    (listener,) = engine.app._private_listeners
    with monkeypatch.context() as hurried:  # this client only: good ones may be as slow as the machine
        hurried.setattr(tls_module, "HANDSHAKE_SECONDS", 0.5)
        reader, writer = await asyncio.open_connection(*engine.address)
        async with asyncio.timeout(60):
            while not listener._handshakes and not reader.at_eof():
                await asyncio.sleep(0.01)
    cut = asyncio.create_task(reader.read())
    for byte in b"\x16\x03\x01\x00\xf4\x01\x00\x00" + bytes(100):  # it never rests
        if cut.done():
            break
        writer.write(bytes([byte]))
        assert (await engine.ask()).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.1)
    assert cut.done()
    with contextlib.suppress(ConnectionError):
        assert await cut == b""
    writer.close()


async def test_of_too_many_handshakes_the_oldest_go(engine, monkeypatch) -> None:
    monkeypatch.setattr(tls_module, "MOST_HANDSHAKES", 4)
    monkeypatch.setattr(tls_module, "HANDSHAKE_SECONDS", 600)  # else they would all go by themselves
    strangers = [await asyncio.open_connection(*engine.address) for _ in range(10)]
    assert (await engine.ask()).startswith(b"HTTP/1.1 200")
    for reader, _ in strangers[:6]:
        assert await asyncio.wait_for(reader.read(), 30) == b""
    for _, writer in strangers:
        writer.close()


async def test_the_end_of_the_engine(engine) -> None:
    """Given away connections end as well, with what was on its way."""
    before = descriptors()
    reader, writer = await engine.connect()
    writer.write(ATTACH)
    await reader.readuntil(b"\r\n\r\n")
    ((local, _),) = engine.taken
    sent = local.send(bytes(180_000))
    assert sent > 100_000
    await engine.app.close(0.1)
    assert await reader.readexactly(sent) == bytes(sent)
    with contextlib.suppress(ConnectionError):
        assert await reader.read(100) == b""
    assert local.recv(10) == b""
    local.close()
    engine.taken.clear()
    writer.close()
    await settle(before - 1)
