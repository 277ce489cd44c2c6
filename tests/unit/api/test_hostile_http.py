"""H5: what is not clean HTTP is refused once, as JSON, and never becomes two requests."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

import pytest

from orlop.api.app import Application
from orlop.api.call import Call, Route
from orlop.api.responses import json_response


@pytest.fixture
async def server(tmp_path):
    seen = []

    async def handler(call: Call):
        seen.append(await call.read())
        return json_response({})

    app = Application([Route("POST", "/x", handler), Route("GET", "/x", handler)])
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    await app.listen(listener)
    yield path, seen
    await app.close(0.1)


async def talk(path, data):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    try:
        answer = await asyncio.wait_for(reader.read(), 30)
    except TimeoutError:
        answer = None
    writer.close()
    return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhelloG",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 20000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 500 + b"\r\n",
        b"GET /x HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET /x\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=range(13),
)
async def test_refused_once_and_closed(server, caplog, request_bytes):
    path, seen = server
    answer = await talk(path, request_bytes)
    assert answer is not None, "the connection must be closed"
    assert answer.count(b"HTTP/1.") == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1].startswith(b"4")
    assert set(json.loads(body)) == {"message"}
    assert b"Server: orlop/" in head
    assert b"Traceback" not in body
    assert len(seen) <= 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (await talk(path, b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_pipelined_requests_are_answered_in_order(server):
    path, seen = server
    one = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
    last = b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n9"
    answer = await talk(path, b"".join(one % n for n in range(9)) + last)
    assert answer.count(b"HTTP/1.1 200") == 10
    assert seen == [b"%d" % n for n in range(10)]


async def test_body_that_breaks_later_is_a_clients_mistake(server, caplog):
    path, seen = server
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"zz\r\n")
    answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.split(b" ")[1] == b"400", answer
    assert seen == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    writer.close()


async def test_client_that_leaves_within_its_body_is_no_error(server, caplog):
    path, seen = server
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhello")
    await asyncio.sleep(0.05)
    writer.close()
    await asyncio.sleep(0.05)
    assert seen == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
