"""The hijack against raw clients: early bytes, half-close, errors, and who owns the socket afterwards."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from orlop.api.app import Application
from orlop.api.call import Call, Route
from orlop.api.hijack import Hijacked, hijack
from orlop.api.responses import json_response
from orlop.errors import NotFoundError


class Engine:
    """An application whose attach and exec routes hijack and leave the socket in ``taken``."""

    def __init__(self) -> None:
        self.taken: list[tuple[Hijacked, bytes]] = []
        self.seen: list[bytes] = []

    async def attach(self, call: Call):
        if call.variables["name"] == "none":
            await asyncio.sleep(0.02)  # time for early bytes to arrive behind a request that will fail
            raise NotFoundError("No such container: none")
        taken = await hijack(call)
        self.taken.append((taken, b""))
        return taken.response

    async def exec_start(self, call: Call):
        body = await call.read()
        if body == b'{"Detach":true}':
            return json_response({})
        await asyncio.sleep(0.02)
        taken = await hijack(call)
        self.taken.append((taken, body))
        return taken.response

    async def upload(self, call: Call):
        data = await call.read()
        self.seen.append(data)
        return json_response({"size": len(data)})


@pytest.fixture
async def engine(tmp_path):
    state = Engine()
    app = Application(
        [
            Route("POST", "/containers/{name}/attach", state.attach),
            Route("POST", "/exec/{name}/start", state.exec_start),
            Route("PUT", "/containers/{name}/archive", state.upload),
        ]
    )
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    await app.listen(listener)
    state.path = path
    yield state
    for taken, _ in state.taken:
        taken.fd.close()
    await app.close(0.1)


ATTACH = (
    b"POST /v1.50/containers/%s/attach?stdin=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n%s\r\n"
)


async def _until(condition, timeout=60.0):
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("extra", [b"", b"Content-Length: 0\r\nContent-Type: text/plain\r\n"])
@pytest.mark.parametrize("early", [b"", b"hello\r\n\r\nPOST / HTTP/1.1\r\n", b"x" * 100_000])
async def test_attach_gives_socket_and_early_bytes(engine, early, extra):
    reader, writer = await asyncio.open_unix_connection(engine.path)
    writer.write(ATTACH % (b"c1", extra) + early)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n")
    assert b"Upgrade: tcp" in head
    taken, _ = engine.taken[0]
    client = socket.socket(fileno=taken.fd.duplicate().release())
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    got = taken.preface
    while len(got) < len(early):
        got += await asyncio.wait_for(loop.sock_recv(client, 65536), 60)
    assert got == early
    # Long after aiohttp has dropped its transport and protocol both directions still work.
    await asyncio.sleep(0.05)
    gc.collect()
    await loop.sock_sendall(client, b"from the container")
    assert await reader.readexactly(18) == b"from the container"
    writer.write(b"from the client")
    assert await loop.sock_recv(client, 100) == b"from the client"
    # The client's half-close reaches the new owner, and output still flows.
    writer.write_eof()
    assert await loop.sock_recv(client, 100) == b""
    await loop.sock_sendall(client, b"last words")
    client.close()
    taken.fd.close()
    assert await reader.read() == b"last words"
    writer.close()


async def test_client_that_sends_all_and_half_closes_at_once(engine):
    reader, writer = await asyncio.open_unix_connection(engine.path)
    writer.write(b"POST /exec/e1/start HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n")
    writer.write(b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}all the input")
    writer.write_eof()
    await reader.readuntil(b"\r\n\r\n")
    taken, body = engine.taken[0]
    assert body == b"{}"
    client = socket.socket(fileno=taken.fd.release())
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    got = taken.preface
    while chunk := await loop.sock_recv(client, 100):
        got += chunk
    assert got == b"all the input"
    await loop.sock_sendall(client, b"result")
    client.close()
    assert await reader.read() == b"result"
    writer.close()


async def test_request_in_single_bytes(engine):
    reader, writer = await asyncio.open_unix_connection(engine.path)
    request = b"POST /exec/e1/start HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyearly"
    for i in range(len(request)):
        writer.write(request[i : i + 1])
        await writer.drain()
        await asyncio.sleep(0)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    taken, body = engine.taken[0]
    assert body == b"body"
    client = socket.socket(fileno=taken.fd.release())
    client.setblocking(False)
    got = taken.preface
    while len(got) < 5:
        got += await asyncio.get_running_loop().sock_recv(client, 100)
    assert got == b"early"
    client.close()
    writer.close()


async def test_failed_attach_is_json_and_the_connection_goes_on(engine):
    reader, writer = await asyncio.open_unix_connection(engine.path)
    # The pipelined second request must not be lost: the first was answered as ordinary HTTP.
    writer.write(ATTACH % (b"none", b"") + ATTACH % (b"c2", b"") + b"early")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert (await reader.readline()) == b'{"message":"No such container: none"}\n'
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    await _until(lambda: engine.taken)
    assert engine.taken[0][0].preface == b"early"
    writer.close()


async def test_detached_exec_keeps_the_connection(engine):
    reader, writer = await asyncio.open_unix_connection(engine.path)
    for _ in range(3):
        writer.write(b'POST /exec/e1/start HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"Detach":true}')
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readline() == b"{}\n"
    writer.close()


async def test_upload_that_looks_like_an_attach_is_data(engine):
    """A tar stream is hostile: a chunk of it that reads like an attach request stays a part of the body."""
    reader, writer = await asyncio.open_unix_connection(engine.path)
    evil = ATTACH % (b"c1", b"")
    body = b"a" * 10 + evil + evil
    writer.write(b"PUT /containers/c1/archive HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    for part in (body[:10], evil, evil):
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(part)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert await reader.readline() == b'{"size":%d}\n' % len(body)
    assert engine.seen == [body]
    assert not engine.taken
    writer.close()
