"""Attaching by WebSocket: what aiodocker and web pages use in place of a hijacked connection."""

import asyncio
import contextlib
import json

import aiohttp
import pytest

from harness import wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "docker-client", "busybox")]

ECHO = ("sh", "-c", "while read line; do echo got $line; echo err $line >&2; done; echo end")


@contextlib.asynccontextmanager
async def attached(engine, name, **query):
    query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1", **query}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(engine.socket))) as session,
        session.ws_connect(
            f"http://localhost/v1.45/containers/{name}/attach/ws", params=query, protocols=["chat", "other"]
        ) as socket,
    ):
        assert socket.protocol == "chat"  # or a browser would close it
        yield socket


async def said(socket, until):
    """Receive until the bytes end so; each frame is a binary one."""
    data = b""
    async with asyncio.timeout(60):
        while not data.endswith(until):
            data += await socket.receive_bytes()
    return data


async def closed(socket):
    async with asyncio.timeout(60):
        message = await socket.receive()
    assert message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}, message
    return socket.close_code


async def test_words_in_and_out(engine):
    engine.docker("create", "-i", "--name", "ws", "busybox", *ECHO)
    async with attached(engine, "ws", stderr="0") as socket:  # before the start, as the docker client attaches
        engine.docker("start", "ws")
        await socket.send_bytes(b"one\n")
        assert await said(socket, b"one\n") == b"got one\n"
        await socket.send_str("two\nthr")  # a text frame is bytes, and a line may be in two
        await socket.send_bytes(b"ee\n")
        assert await said(socket, b"three\n") == b"got two\ngot three\n"
        await socket.send_bytes(b"x" * 3_000_000 + b"\n")
        assert len(await said(socket, b"x\n")) == 3_000_005
    # the connection was standard input's only one (StdinOnce): the program reads its end
    assert engine.docker("wait", "ws").stdout == "0\n"
    assert engine.docker("logs", "--tail", "1", "ws").stdout == "end\n"


async def test_it_ends_with_the_container_and_the_container_not_with_it(engine):
    script = "trap 'echo last; exit 3' TERM; echo first; sleep 99 & wait"
    engine.docker("run", "-d", "--name", "ws", "busybox", "sh", "-c", script)
    wait_for(lambda: engine.docker("logs", "ws").stdout)
    async with attached(engine, "ws", logs="1") as socket:
        assert await said(socket, b"first\n") == b"first\n"
    async with attached(engine, "ws") as socket:
        await asyncio.to_thread(engine.docker, "kill", "-s", "TERM", "ws")
        assert await said(socket, b"last\n") == b"last\n"
        assert await closed(socket) == aiohttp.WSCloseCode.OK
    assert engine.docker("wait", "ws").stdout == "3\n"


async def test_a_terminal_and_its_detach_keys(engine):
    engine.docker("run", "-dit", "--name", "ws", "busybox", "cat")
    async with attached(engine, "ws", detachKeys="ctrl-a,q") as socket:
        await socket.send_bytes(b"hello\r")
        assert await said(socket, b"hello\r\nhello\r\n")
        await socket.send_bytes(b"\x01q")
        assert await closed(socket) == aiohttp.WSCloseCode.OK
    assert engine.docker("inspect", "-f", "{{.State.Running}}", "ws").stdout == "true\n"


def test_what_cannot_be_attached_is_told_before(engine):
    assert engine.http("GET", "/v1.45/containers/nobody/attach/ws?stream=1")[0] == 404
    engine.docker("run", "-dt", "--name", "ws", "busybox", "sleep", "99")
    status, body = engine.http("GET", "/v1.45/containers/ws/attach/ws?stream=1")
    assert (status, json.loads(body)) == (400, {"message": "not websocket protocol"})
    status, body = engine.http("GET", "/v1.45/containers/ws/attach/ws?stream=1&detachKeys=nonsense")
    assert (status, json.loads(body)) == (400, {"message": "Invalid detach keys (nonsense) provided"})
