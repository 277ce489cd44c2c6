"""The HTTP side: versions, errors, bodies, streams, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket

import msgspec
import pytest

from orlop import errors
from orlop.api.app import Application
from orlop.api.call import BODY_LIMIT, Call, Route, parse_filters
from orlop.api.responses import JsonStream, empty, json_response
from orlop.api.routing import Router


class Wish(msgspec.Struct, rename="pascal"):
    name: str = ""


class Client:
    def __init__(self, path):
        self.path = path

    async def __call__(self, method, path, body=b"", headers=()):
        reader, writer = await asyncio.open_unix_connection(self.path)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write((head + "".join(f"{h}\r\n" for h in headers) + "\r\n").encode() + body)
        raw = await reader.read()
        writer.close()
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        return int(lines[0].split()[1]), fields, rest


@contextlib.asynccontextmanager
async def serving(app, tmp_path):
    """Serve for as long as the context lasts; gives what asks."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    await app.listen(listener)
    try:
        yield Client(str(tmp_path / "s"))
    finally:
        await app.close(0.1)


@pytest.fixture
async def client(tmp_path):
    state = {"left": asyncio.Event()}

    async def fail(call: Call):
        name = call.variables["name"]
        if name == "bug":
            raise ZeroDivisionError("secret value")
        raise errors.BY_KIND[name]("No such thing: x")

    async def create(call: Call):
        wish = await call.body(Wish)
        return json_response({"Id": wish.name}, status=201)

    async def stream(call: Call):
        async with JsonStream(call) as answer:
            await answer.send({"n": 1})
            if call.boolean("fail"):
                raise errors.SystemFailureError("disk full")
            if call.boolean("follow"):
                await call.wait_gone()
                state["left"].set()
        return answer.response

    async def refuse(call: Call):
        async with JsonStream(call):
            raise errors.ConflictError("before the head")

    async def version(call: Call):
        return json_response(list(call.version))

    async def name(call: Call):
        return json_response(call.variables)

    app = Application(
        [
            Route("GET", "/fail/{name}", fail),
            Route("POST", "/create", create),
            Route("GET", "/stream", stream),
            Route("GET", "/refuse", refuse),
            Route("GET", "/version", version),
            Route("GET", "/new", version, since=(1, 45)),
            Route("GET", "/images/{name:.*}/json", name),
            Route("DELETE", "/images/{name:.*}", name),
            Route("GET", "/containers/{name}/json", name),
            Route("POST", "/empty", lambda call: asyncio.sleep(0, empty())),
        ]
    )
    async with serving(app, tmp_path) as caller:
        caller.state = state
        yield caller


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_parameter", 400),
        ("unauthorized", 401),
        ("forbidden", 403),
        ("not_found", 404),
        ("conflict", 409),
        ("unsupported", 501),
        ("unavailable", 503),
        ("system", 500),
        ("data_loss", 500),
        ("command_not_found", 400),
        ("command_not_executable", 400),
        ("internal", 500),
    ],
)
async def test_errors_have_docker_status_and_body(client, kind, status):
    got, headers, body = await client("GET", f"/v1.45/fail/{kind}")
    assert (got, body) == (status, b'{"message":"No such thing: x"}\n')
    assert headers["content-type"] == "application/json"
    assert headers["api-version"] == "1.50"
    assert headers["server"].startswith("orlop/")


async def test_not_modified_has_no_body(client):
    status, _, body = await client("GET", "/fail/not_modified")
    assert (status, body) == (304, b"")


async def test_unforeseen_error_tells_its_type_only(client, caplog):
    with caplog.at_level(logging.CRITICAL):
        status, _, body = await client("GET", "/fail/bug")
    assert (status, json.loads(body)) == (500, {"message": "internal error: ZeroDivisionError"})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1.99/version", "client version 1.99 is too new. Maximum supported API version is 1.50"),
        ("/v2.0/version", "client version 2.0 is too new. Maximum supported API version is 1.50"),
        (
            "/v1.12/version",
            "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
    ],
)
async def test_version_out_of_range(client, path, message):
    status, _, body = await client("GET", path)
    assert (status, json.loads(body)["message"]) == (400, message)


async def test_version_prefix_is_optional(client):
    assert json.loads((await client("GET", "/version"))[2]) == [1, 50]
    assert json.loads((await client("GET", "/v1.24/version"))[2]) == [1, 24]
    assert (await client("GET", "/v1.44/new"))[0] == 404
    assert (await client("GET", "/v1.45/new"))[0] == 200


@pytest.mark.parametrize(
    "path", ["/nope", "/v1.45/nope", "/containers//json", "/v1.45", "/", "/versionx", "/v1.45x/version"]
)
async def test_unknown_page(client, path):
    status, _, body = await client("GET", path)
    if status == 301:
        return
    assert (status, body) == (404, b'{"message":"page not found"}\n')


async def test_names_with_slashes(client):
    for encoded, name in (
        ("a/b/c:1", "a/b/c:1"),
        ("a%2Fb", "a/b"),
        ("localhost:5000/x", "localhost:5000/x"),
        ("json", "json"),
    ):
        assert json.loads((await client("GET", f"/images/{encoded}/json"))[2]) == {"name": name}
    assert json.loads((await client("DELETE", "/images/a/b/json"))[2]) == {"name": "a/b/json"}
    # An encoded slash stays in the name: it does not choose another route.
    assert json.loads((await client("GET", "/containers/a%2F..%2Fb/json"))[2]) == {"name": "a/../b"}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b'{"Name":"x","Unknown":1}', "application/json", 201, None),
        (b'{"Name":"x"}', "application/json; charset=utf-8", 201, None),
        (b"", "application/json", 400, "invalid JSON: got EOF while reading request body"),
        (b"{", "application/json", 400, "invalid JSON: unexpected EOF"),
        (b"{} {}", "application/json", 400, "unexpected content after JSON"),
        (b'{"Name":5}', "application/json", 400, "invalid JSON: expected `str`, got `int` - at `$.Name`"),
        (b'{"Name":NaN}', "application/json", 400, None),
        (b'{"Name":"\xff"}', "application/json", 400, None),
        (b"[" * 100_000, "application/json", 400, None),
        (b'{"Name":' + b"9" * 5000 + b"}", "application/json", 400, None),
        (
            b'{"Name":"x"}',
            "text/plain",
            400,
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
    ],
)
async def test_bodies(client, body, content_type, status, message):
    got, _, answer = await client("POST", "/create", body, [f"Content-Type: {content_type}"])
    assert got == status, answer
    if message is not None:
        assert json.loads(answer)["message"] == message


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_have_a_size(client, chunked):
    """H8: neither what says how long it is nor what does not is collected without end."""
    data = b'{"Name":"' + b"x" * BODY_LIMIT + b'"}'
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(data)
    reader, writer = await asyncio.open_unix_connection(client.path)
    writer.write(b"POST /create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n" % length)
    writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if chunked else data)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert head.split(b" ")[1] == b"400", head
    assert b"request body too large" in await reader.readuntil(b"}")
    writer.close()


async def test_stream_and_its_errors(client, caplog):
    status, headers, body = await client("GET", "/stream")
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert body.endswith(b"0\r\n\r\n")
    status, _, body = await client("GET", "/refuse")
    assert (status, json.loads(body)["message"]) == (409, "before the head")
    with caplog.at_level(logging.CRITICAL):
        status, _, body = await client("GET", "/stream?fail=1")
    assert status == 200
    assert not body.endswith(b"0\r\n\r\n"), "a failed stream must not look complete"


async def test_client_that_leaves_a_stream_is_noticed_quietly(client, caplog):
    reader, writer = await asyncio.open_unix_connection(client.path)
    writer.write(b"GET /stream?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b'{"n":1}\r\n')
    writer.close()
    await asyncio.wait_for(client.state["left"].wait(), 60)
    await asyncio.sleep(0.05)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_head_gets_headers_only(client):
    status, headers, body = await client("HEAD", "/version")
    assert (status, body) == (200, b"")
    assert headers["api-version"] == "1.50"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ('{"a":["x","y"]}', {"a": ["x", "y"]}),
        ('{"a":{"x":true,"y":false}}', {"a": ["x"]}),
        ("{}", {}),
    ],
)
def test_filters(text, expected):
    assert parse_filters(text) == expected


@pytest.mark.parametrize("text", ["x", "[]", '{"a":1}', '{"a":[1]}', '{"a":{"x":1}}', "[" * 100_000, '{"a":"x"}'])
def test_bad_filters(text):
    with pytest.raises(errors.InvalidParameterError, match=r"^invalid filter$"):
        parse_filters(text)


def test_literal_route_wins_over_variable():
    first, second = Route("GET", "/containers/{name}", None), Route("GET", "/containers/json", None)
    router = Router([first, second])
    assert router.find("GET", "/containers/json", (1, 50))[0] is second
    assert router.find("GET", "/containers/x", (1, 50)) == (first, {"name": "x"})


@pytest.mark.parametrize(
    ("path", "order"),
    [("/made", ["handler", "sync", "answer"]), ("/run", ["handler", "answer", "sync"]), ("/refused", ["answer"])],
)
async def test_what_is_told_is_on_the_disk(tmp_path, monkeypatch, path, order):
    """Who hears that something was made finds it after a power failure, too; starts do not wait for that."""
    monkeypatch.setattr("orlop.api.app._SOON", 0.2)
    done = []

    async def handler(call: Call):
        done.append("handler")
        return empty()

    async def refuse(call: Call):
        raise errors.ConflictError("no")

    async def sync():
        await asyncio.sleep(0)
        done.append("sync")

    routes = [
        Route("POST", "/made", handler),
        Route("POST", "/run", handler, prompt=True),
        Route("POST", "/refused", refuse),
    ]
    async with serving(Application(routes, sync=sync), tmp_path) as client:
        status, _, _ = await client("POST", path)
        done.append("answer")
        assert (status == 204) is (path != "/refused")
        async with asyncio.timeout(30):
            while len(done) < len(order):
                await asyncio.sleep(0.01)
        assert done == order


async def test_what_changes_while_the_disk_is_waited_for_is_waited_for_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("orlop.api.app._SOON", 0)
    begun, go_on, times = asyncio.Event(), asyncio.Event(), 0

    async def handler(call: Call):
        return empty()

    async def sync():
        nonlocal times
        times += 1
        begun.set()
        await go_on.wait()

    async with serving(Application([Route("POST", "/run", handler, prompt=True)], sync=sync), tmp_path) as client:
        await client("POST", "/run")
        await begun.wait()
        await client("POST", "/run")
        async with asyncio.timeout(30):
            while times < 2:
                await asyncio.sleep(0.01)
        go_on.set()


async def test_what_is_not_on_the_disk_is_no_success(tmp_path):
    async def handler(call: Call):
        return empty()

    async def sync():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with serving(Application([Route("POST", "/made", handler)], sync=sync), tmp_path) as client:
        status, _, _ = await client("POST", "/made")
        assert status == 500
