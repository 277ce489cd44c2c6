"""Sessions of clients, on connections of their own and within calls."""

import asyncio
import contextlib
import socket

import pytest

from orlop.api.buildkit.messages import BytesMessage
from orlop.api.buildkit.sessions import OpenSessions
from orlop.api.grpc.channel import Channel
from orlop.api.grpc.server import Server, unary
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError
from orlop.primitives.owned_fd import OwnedFd

HEADERS = {
    "x-docker-expose-session-uuid": ["one"],
    "x-docker-expose-session-sharedkey": ["key"],
    "x-docker-expose-session-grpc-method": ["/a.B/C", "/a.B/D"],
}


async def double(_stream, request):
    return request * 2


def pair():
    return [OwnedFd(one.detach()) for one in socket.socketpair()]


async def test_a_session_is_there_as_long_as_its_client():
    sessions = OpenSessions()
    waiting = asyncio.create_task(sessions.wait("one"))
    ours, theirs = pair()
    client = asyncio.create_task(Server({"/a.B/C": unary(double)}).serve(theirs, b""))
    serving = asyncio.create_task(sessions.serve(HEADERS, ours, b""))
    session = await asyncio.wait_for(waiting, 60)
    assert (session.shared_key, session.channel.methods) == ("key", {"/a.B/C", "/a.B/D"})
    assert await session.channel.unary("/a.B/C", b"x") == b"xx"
    with pytest.raises(ConflictError):
        sessions.name_in(HEADERS)
    client.cancel()
    await asyncio.wait_for(serving, 60)
    assert sessions.name_in(HEADERS) == "one"
    with contextlib.suppress(asyncio.CancelledError):
        await client


async def test_a_session_within_a_call():
    """The client's server speaks HTTP/2 in the messages of a call of its own."""
    sessions = OpenSessions()
    ours, theirs = pair()
    engine = asyncio.create_task(Server({"/Control/Session": sessions.serve_within}).serve(theirs, b""))
    channel = await Channel.begin(ours, frozenset())
    running = asyncio.create_task(channel.run(b""))
    near, far = socket.socketpair()
    near.setblocking(False)
    client = asyncio.create_task(Server({"/a.B/C": unary(double)}).serve(OwnedFd(far.detach()), b""))
    reader, writer = await asyncio.open_connection(sock=near)
    async with await channel.stream("/Control/Session", HEADERS) as stream:

        async def out():
            while data := await reader.read(1000):
                await stream.send(BytesMessage(data=data).encode())

        async def back():
            while (message := await stream.receive()) is not None:
                writer.write(BytesMessage.decode(message).data)

        copying = [asyncio.create_task(out()), asyncio.create_task(back())]
        session = await sessions.wait("one")
        assert await asyncio.wait_for(session.channel.unary("/a.B/C", b"x" * 100_000), 60) == b"x" * 200_000
    for task in copying:
        task.cancel()
    await asyncio.gather(*copying, return_exceptions=True)
    channel.close()
    writer.close()
    await asyncio.wait_for(asyncio.gather(engine, running, client, writer.wait_closed()), 60)
    assert sessions.name_in(HEADERS) == "one"


def test_a_session_needs_a_name():
    with pytest.raises(InvalidParameterError, match="missing session id"):
        OpenSessions().name_in({})


async def test_a_session_that_does_not_come(monkeypatch):
    monkeypatch.setattr("orlop.api.buildkit.sessions._SECONDS", 0.05)
    with pytest.raises(NotFoundError, match="no active session for none"):
        await OpenSessions().wait("none")
