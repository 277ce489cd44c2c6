"""The engine's gRPC in both roles on a socket pair, and what a hostile peer can do to it."""

import asyncio
import contextlib
import os
import socket

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from fake_buildkit_client import joined
from orlop.api.grpc.framing import MESSAGE_LIMIT, MessageReader, frame
from orlop.api.grpc.server import Server, unary
from orlop.api.grpc.status import Any, CallError, Code, error_in, trailers
from orlop.errors import InvalidParameterError, NotFoundError
from orlop.primitives.owned_fd import OwnedFd


async def double(_stream, request):
    return request * 2


async def echo(stream):
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def test_unary():
    async with joined({"/a.B/C": unary(double)}) as channel:
        assert channel.methods == {"/a.B/C"}
        assert await channel.unary("/a.B/C", b"xy") == b"xyxy"
        assert await channel.unary("/a.B/C", b"") == b""
        big = os.urandom(5 << 20)
        assert await channel.unary("/a.B/C", big) == big * 2


async def test_calls_that_last_leave_room_for_short_ones():
    async def wait(stream):
        await asyncio.Event().wait()

    async with joined({"/a.B/C": wait, "/a.B/D": unary(double)}) as channel:
        lasting = [await channel.stream("/a.B/C") for _ in range(400)]
        assert await asyncio.wait_for(channel.unary("/a.B/D", b"x"), 60) == b"xx"
        for stream in lasting:
            stream.close()


async def test_metadata_arrives():
    seen = {}

    async def look(stream, request):
        seen.update(stream.metadata)
        return b""

    async with joined({"/a.B/C": unary(look)}) as channel:
        await channel.unary("/a.B/C", b"", {"One": "1", "many": ["a", "b"]})
    assert (seen["one"], seen["many"], seen[":path"]) == (["1"], ["a", "b"], ["/a.B/C"])


async def test_messages_in_both_directions():
    async with joined({"/a.B/C": echo}) as channel, await channel.stream("/a.B/C") as stream:
        for message in (b"1", b"", b"x" * 200_000):
            await stream.send(message)
            assert await stream.receive() == message
        await stream.end()
        assert await stream.receive() is None


async def test_many_calls_at_once():
    async with joined({"/a.B/C": unary(double)}) as channel:
        words = [b"%d" % number * 5000 for number in range(300)]
        assert await asyncio.gather(*(channel.unary("/a.B/C", word) for word in words)) == [word * 2 for word in words]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("No such image: ü%\n"), Code.NOT_FOUND),
        (CallError(Code.ABORTED, "x", [Any(type_url="t", value=b"v")]), Code.ABORTED),
    ],
    ids=["of the engine", "of gRPC"],
)
@pytest.mark.parametrize("begun", [False, True])
async def test_errors(error, code, begun):
    async def fail(stream):
        if begun:
            await stream.send(b"first")
        raise error

    async with joined({"/a.B/C": fail}) as channel, await channel.stream("/a.B/C") as stream:
        if begun:
            assert await stream.receive() == b"first"
        with pytest.raises(CallError) as caught:
            await stream.receive()
        assert (caught.value.code, str(caught.value)) == (code, str(error))
        assert list(caught.value.details) == list(getattr(error, "details", ()))


async def test_what_nobody_serves_is_refused():
    async with joined({"/a.B/C": echo}) as channel:
        for method, message in (("/a.B/D", "unknown method D for service a.B"), ("/x/y", "unknown service x")):
            with pytest.raises(CallError, match=message) as caught:
                await channel.unary(method, b"")
            assert caught.value.code is Code.UNIMPLEMENTED


async def test_an_error_of_ours_is_not_told(caplog):
    async def fail(stream):
        raise ZeroDivisionError("secret")

    async with joined({"/a.B/C": fail}) as channel:
        with pytest.raises(CallError, match="internal error") as caught:
            await channel.unary("/a.B/C", b"")
        assert "secret" not in str(caught.value)
    assert "call failed: /a.B/C" in caplog.text


@pytest.mark.parametrize("how", ["reset", "leave"])
async def test_a_handler_ends_with_its_client(how):
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(stream):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with joined({"/a.B/C": wait, "/a.B/D": unary(double)}) as channel:
        stream = await channel.stream("/a.B/C")
        await began.wait()
        if how == "reset":
            stream.reset()
            await asyncio.wait_for(cancelled.wait(), 60)
            assert await channel.unary("/a.B/D", b"x") == b"xx"
        else:
            channel.close()
            await asyncio.wait_for(cancelled.wait(), 60)
            with pytest.raises(CallError):
                await stream.receive()
            with pytest.raises(CallError):
                await channel.unary("/a.B/D", b"x")


async def test_a_call_that_was_reset_leaves_the_room_that_it_took():
    """What it had not received counts for the whole connection: others would wait for that room for ever."""

    async def wait(stream):
        await asyncio.Event().wait()

    async with joined({"/a.B/C": wait, "/a.B/D": unary(double)}) as channel:
        for _ in range(12):
            stream = await channel.stream("/a.B/C")
            for _ in range(6):  # of a connection's first window, nearly a quarter
                await asyncio.wait_for(stream.send(bytes(10 << 10)), 60)
            stream.close()
        big = bytes(1 << 20)
        assert await asyncio.wait_for(channel.unary("/a.B/D", big), 60) == big * 2


async def test_a_handler_whose_work_was_cancelled_ends_its_call():
    """By the end of a build, say, that it waits for."""

    async def fail(stream):
        raise asyncio.CancelledError

    async with joined({"/a.B/C": fail}) as channel:
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(channel.unary("/a.B/C", b""), 60)
        assert caught.value.code is Code.CANCELLED


async def test_a_deadline():
    async def wait(stream):
        await asyncio.Event().wait()

    async with joined({"/a.B/C": wait}) as channel, await channel.stream("/a.B/C", {"grpc-timeout": "20m"}) as stream:
        with pytest.raises(CallError, match="deadline"):
            await stream.receive()


async def test_a_sender_waits_for_its_reader():
    sent = 0

    async def flood(stream):
        nonlocal sent
        for _ in range(500):
            await stream.send(bytes(100_000))
            sent += 1

    async with joined({"/a.B/C": flood}) as channel, await channel.stream("/a.B/C") as stream:
        await asyncio.sleep(0.2)
        assert sent < 3  # a window of 64 KiB
        for _ in range(50):
            assert len(await stream.receive()) == 100_000
        # one of 1 MiB, since that was of use: h2 opens it again when half was taken in, and one message still is not
        async with asyncio.timeout(60):
            while sent < 54:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert sent < 70
        for _ in range(450):
            assert len(await stream.receive()) == 100_000
        assert await stream.receive() is None


async def test_too_long_a_message():
    async with joined({"/a.B/C": echo}) as channel, await channel.stream("/a.B/C") as stream:
        with pytest.raises(CallError):
            await stream.send(bytes(MESSAGE_LIMIT + 1))
            await stream.receive()
        assert await channel.unary("/a.B/C", b"next") == b"next"


def hello():
    protocol = H2Connection(H2Configuration(client_side=True))
    protocol.initiate_connection()
    return protocol


def headers(path="/a.B/C"):
    return [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]


def garbage():
    return hello().data_to_send() + os.urandom(5000)


def resets():
    protocol = hello()
    data = b""
    for number in range(1, 4000, 2):
        protocol.send_headers(number, headers())
        protocol.reset_stream(number)
        data += protocol.data_to_send()
    return data


def streams():
    protocol = hello()
    for number in range(1, 400, 2):
        protocol.send_headers(number, headers())
    return protocol.data_to_send()


def settings():
    return hello().data_to_send() + b"\0\0\0\4\0\0\0\0\0" * 5000


@pytest.mark.parametrize(
    "data",
    [lambda: b"GET / HTTP/1.1\r\n\r\n", lambda: b"", garbage, resets, streams, settings],
    ids=["other protocol", "nothing", "garbage", "resets", "streams", "settings"],
)
async def test_hostile_bytes_end_their_connection_at_most(data):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    serving = asyncio.create_task(Server({"/a.B/C": echo}).serve(OwnedFd(theirs.detach()), data()))
    loop = asyncio.get_running_loop()
    with ours:
        await asyncio.sleep(0.05)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.3):
                while await loop.sock_recv(ours, 65536):
                    pass
    await asyncio.wait_for(serving, 60)


def test_messages_come_in_pieces():
    data = frame(b"") + frame(b"abc") + frame(b"x" * 300)
    reader, found = MessageReader(), []
    for byte in data:
        found += reader.feed(bytes((byte,)))
    assert found == [b"", b"abc", b"x" * 300]
    assert reader.held == 0


@pytest.mark.parametrize("data", [b"\1\0\0\0\0", b"\0\xff\xff\xff\xff"])
def test_no_messages(data):
    with pytest.raises(InvalidParameterError):
        MessageReader().feed(data)


def test_trailers():
    assert trailers(None) == [("grpc-status", "0")]
    assert error_in(dict(trailers(None))) is None
    assert dict(trailers(NotFoundError("a%\nü")))["grpc-message"] == "a%25%0A%C3%BC"
    assert error_in({"grpc-status": "99"}).code is Code.UNKNOWN
    assert error_in({"grpc-status": "5", "grpc-status-details-bin": "!!"}).code is Code.NOT_FOUND
