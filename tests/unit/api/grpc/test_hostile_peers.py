"""What a peer can do with HTTP/2 alone to take memory, or time that others wait for (threats.md F4, H8; faults.md R21)."""

import asyncio
import contextlib
import gc
import os
import socket
import time

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

from fake_buildkit_client import joined
from orlop.api.grpc import channel as channels
from orlop.api.grpc.channel import Channel
from orlop.api.grpc.connection import Connection
from orlop.api.grpc.framing import frame
from orlop.api.grpc.server import Server, unary
from orlop.api.grpc.status import CallError, Code
from orlop.errors import InvalidParameterError
from orlop.primitives.owned_fd import OwnedFd

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":authority", "x"), ("te", "trailers")]
BEGUN = [(":status", "200"), ("content-type", "application/grpc")]


async def double(_stream, request):
    return request * 2


class Peer:
    """The other end of a connection, which says what it likes."""

    def __init__(self, sock, *, client):
        sock.setblocking(False)
        self.sock = sock
        self.protocol = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.protocol.initiate_connection()

    async def flush(self):
        await self.say(self.protocol.data_to_send())

    async def say(self, data):
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), 60)

    async def hear(self):
        """Return the events of what comes next; None at the end."""
        data = b""
        with contextlib.suppress(ConnectionError):
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 20), 60)
        events = self.protocol.receive_data(data) if data else None
        await self.flush()
        return events

    async def hear_until(self, *kinds):
        found = []
        while (events := await self.hear()) is not None:
            found += events
            if any(isinstance(event, kinds) for event in events):
                break
        return found

    async def hear_end(self):
        with contextlib.suppress(Exception):  # whatever it means
            while await self.hear() is not None:
                pass


@pytest.fixture
def connections(monkeypatch):
    """The connections that were begun."""
    found = []
    begin = Connection.begin.__func__

    async def noted(cls, *arguments, **named):
        found.append(await begin(cls, *arguments, **named))
        return found[-1]

    monkeypatch.setattr(Connection, "begin", classmethod(noted))
    return found


@contextlib.asynccontextmanager
async def client_of(handler):
    """Yield a client to a server of ours."""
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(Server({"/a.B/C": handler}).serve(OwnedFd(theirs.detach()), b""))
    with ours:
        peer = Peer(ours, client=True)
        await peer.flush()
        yield peer
    await asyncio.wait_for(serving, 60)


@contextlib.asynccontextmanager
async def server_of(*, greets=True):
    """Yield a channel of ours and the server at its other end."""
    ours, theirs = socket.socketpair()
    channel = await Channel.begin(OwnedFd(ours.detach()), frozenset())
    running = asyncio.create_task(channel.run(b""))
    with theirs:
        peer = Peer(theirs, client=False)
        if greets:
            await peer.flush()
        yield channel, peer
    channel.close()
    await asyncio.wait_for(running, 60)


@contextlib.asynccontextmanager
async def worst_stall():
    """Yield a list that then holds the longest time of the processor in which nobody else had a turn."""
    found = [0.0]

    async def beat():
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            found[0] = max(found[0], time.thread_time() - began)

    gc.disable()  # what is collected is what all tests before left
    beating = asyncio.create_task(beat())
    try:
        yield found
    finally:
        beating.cancel()
        gc.enable()


async def test_answers_are_not_all_remembered_for_a_peer_that_asks_for_it(connections):
    """The table of headers: each new one is looked for among all that are in it."""

    async def fail(_stream):
        raise InvalidParameterError(os.urandom(600).hex())

    async with client_of(fail) as peer:
        peer.protocol.decoder.max_allowed_table_size = 2**31
        number = 1
        for size in (2**31, 0, 2**20, 100, 2**31):
            peer.protocol.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
            for _ in range(20):
                peer.protocol.send_headers(number, REQUEST, end_stream=True)
                await peer.flush()
                events = await peer.hear_until(StreamEnded)
                told = [dict(event.headers) for event in events if getattr(event, "headers", None)]
                assert told[-1][b"grpc-status"] == b"3"
                number += 2
        encoder = connections[0]._protocol.encoder
        assert encoder.header_table._current_size <= 4096
        for _ in range(40):
            peer.protocol.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
            peer.protocol.update_settings({SettingCodes.HEADER_TABLE_SIZE: 4096})
        await peer.flush()
        await peer.hear()
        assert len(encoder.table_size_changes) <= 2


async def test_settings_without_an_end(connections):
    """Each is applied to all calls that are open."""
    async with client_of(lambda _: asyncio.Event().wait()) as peer:
        for number in range(1, 1000, 2):
            peer.protocol.send_headers(number, REQUEST)
        await peer.flush()
        began = time.process_time()
        for size in range(3000):
            peer.protocol.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535 + size})
        await peer.flush()
        await peer.hear_end()
        assert time.process_time() - began < 5
        assert connections[0].gone.is_set()


FLOODS = {
    "pings": b"\0\0\x08\6\0\0\0\0\0" + bytes(8),
    "empty data": b"\0\0\0\0\0\0\0\0\1",
    "priorities": b"\0\0\5\2\0\0\0\0\1" + b"\0\0\0\0\x10",
    "windows": b"\0\0\4\x08\0\0\0\0\0" + b"\0\0\0\1",
}


async def stall_of(handler, said, *, over=None):
    """Return the longest time without a turn for others while a server takes what a client said.

    Args:
        handler: of the calls.
        said: all of it.
        over: the event that the client waits for before it leaves; None for two seconds.
    """
    ours, theirs = socket.socketpair()
    server = Server({"/a.B/C": handler})
    async with worst_stall() as stall:
        serving = asyncio.create_task(server.serve(OwnedFd(theirs.detach()), said))
        with ours:
            ours.setblocking(False)

            async def read():
                while await asyncio.get_running_loop().sock_recv(ours, 1 << 20):
                    pass

            tasks = [
                asyncio.create_task(read()),
                asyncio.create_task(asyncio.sleep(2) if over is None else over.wait()),
            ]
            await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(serving, 60)
    return stall[0]


def call():
    """Return a client's protocol that has begun a call."""
    protocol = H2Connection(H2Configuration(client_side=True))
    protocol.initiate_connection()
    protocol.send_headers(1, REQUEST)
    return protocol


@pytest.mark.parametrize("flood", FLOODS)
async def test_frames_of_one_peer_leave_room_for_others(flood):
    said = call().data_to_send() + FLOODS[flood] * ((1 << 20) // len(FLOODS[flood]))
    assert await stall_of(lambda _: asyncio.Event().wait(), said) < 0.2


async def test_messages_of_one_call_leave_room_for_others():
    """A window full of messages that say nothing."""
    taken, over = 0, asyncio.Event()

    async def take(stream):
        nonlocal taken
        while await stream.receive() is not None:
            taken += 1
            if taken == 4 * 3200:
                over.set()
            for _ in range(5000):  # what somebody does with each
                pass

    protocol = call()
    said = protocol.data_to_send() + (b"\0\x3e\x80\0\0\0\0\0\1" + frame(b"") * 3200) * 4
    assert await stall_of(take, said, over=over) < 0.2
    assert taken == 4 * 3200


async def test_who_never_reads_makes_others_wait_and_holds_one_frame(connections):
    """Windows as wide as they can be, frames as long, and nothing is read."""

    async def pour(stream):
        while True:
            await stream.send(bytes(1 << 20))

    async with client_of(pour) as peer:
        peer.protocol.update_settings(
            {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1, SettingCodes.MAX_FRAME_SIZE: 2**24 - 1}
        )
        peer.protocol.increment_flow_control_window(2**31 - 1 - 65_535)
        for number in range(1, 400, 2):
            peer.protocol.send_headers(number, REQUEST)
        await peer.flush()
        most = 0
        for _ in range(50):
            await asyncio.sleep(0.01)
            most = max(most, connections[0]._writer.transport.get_write_buffer_size())
        assert 0 < most < 512 << 10


@pytest.mark.parametrize("what", ["list", "continuations", "streams"])
async def test_headers_without_an_end(connections, what):
    async with client_of(lambda _: asyncio.Event().wait()) as peer:
        hearing = asyncio.create_task(peer.hear_end())
        if what == "list":
            for number in range(1, 21, 2):
                peer.protocol.send_headers(number, [*REQUEST, *((f"x{one}", "") for one in range(600))])
            await peer.flush()
        elif what == "continuations":
            await peer.say(b"\0\0\0\1\0\0\0\0\1" + b"\0\0\0\x09\0\0\0\0\1" * 5000)
        else:
            peer.protocol.remote_settings.max_concurrent_streams = 10_000
            for number in range(1, 2100, 2):
                peer.protocol.send_headers(number, REQUEST)
            await peer.flush()
        await asyncio.wait_for(hearing, 60)
        assert connections[0].gone.is_set()


async def test_byte_by_byte():
    async with client_of(unary(double)) as peer:
        peer.protocol.send_headers(1, REQUEST)
        peer.protocol.send_data(1, frame(b"abc"), end_stream=True)
        for byte in peer.protocol.data_to_send():
            await peer.say(bytes((byte,)))
        events = await peer.hear_until(StreamEnded)
        assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == frame(b"abcabc")


@pytest.mark.parametrize(
    ("data", "message"),
    [(frame(b"abc")[:-1], "within a message"), (b"\0\0", "within a message")],
    ids=["cut off", "cut off in its head"],
)
async def test_a_request_that_is_none(data, message):
    seen = []

    async def take(stream):
        try:
            await stream.receive()
        except CallError as error:
            seen.append(str(error))
            raise

    async with client_of(take) as peer:
        peer.protocol.send_headers(1, REQUEST)
        peer.protocol.send_data(1, data, end_stream=True)
        await peer.flush()
        events = await peer.hear_until(StreamEnded, StreamReset)
        assert any(isinstance(event, (TrailersReceived, StreamReset, StreamEnded)) for event in events)
    assert [message in text for text in seen] == [True]


async def test_a_compressed_message():
    async with client_of(unary(double)) as peer:
        peer.protocol.send_headers(1, REQUEST)
        peer.protocol.send_data(1, b"\1\0\0\0\1x", end_stream=True)
        await peer.flush()
        assert any(isinstance(event, StreamReset) for event in await peer.hear_until(StreamReset))


ENDINGS = {
    "no trailers": lambda peer: peer.protocol.send_data(1, frame(b"x"), end_stream=True),
    "trailers without a status": lambda peer: (
        peer.protocol.send_data(1, frame(b"x")),
        peer.protocol.send_headers(1, [("x", "y")], end_stream=True),
    ),
    "within a message": lambda peer: (
        peer.protocol.send_data(1, frame(b"x") + frame(b"yz")[:-1]),
        peer.protocol.send_headers(1, [("grpc-status", "0")], end_stream=True),
    ),
    "reset": lambda peer: (peer.protocol.send_data(1, frame(b"x")), peer.protocol.reset_stream(1, ErrorCodes.CANCEL)),
    "goaway": lambda peer: (peer.protocol.send_data(1, frame(b"x")), peer.protocol.close_connection(2)),
    "gone": lambda peer: (peer.protocol.send_data(1, frame(b"x")), peer.sock.shutdown(socket.SHUT_RDWR)),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_a_server_began_to_say_is_not_everything(ending):
    async with server_of() as (channel, peer):
        stream = await channel.stream("/a.B/C")
        await peer.hear()
        peer.protocol.send_headers(1, BEGUN)
        await peer.flush()
        ENDINGS[ending](peer)
        with contextlib.suppress(OSError):
            await peer.flush()
        with pytest.raises(CallError):
            while await asyncio.wait_for(stream.receive(), 10) is not None:
                pass
        stream.close()


async def test_nothing_begins_on_a_connection_that_is_ending():
    async with server_of() as (channel, peer):
        stream = await channel.stream("/a.B/C")
        await peer.hear()
        peer.protocol.close_connection()
        await peer.flush()
        await asyncio.sleep(0.05)
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(channel.stream("/a.B/C"), 10)
        assert caught.value.code is Code.UNAVAILABLE
        stream.close()


@pytest.mark.parametrize("greets", [True, False])
async def test_a_server_that_says_nothing_is_let_go(monkeypatch, greets):
    """Whoever waits for it is told: a machine that is gone, or a program that was stopped."""
    monkeypatch.setattr(channels, "_ASK_SECONDS", 0.01)
    monkeypatch.setattr(channels, "_ANSWER_SECONDS", 0.2)
    async with server_of(greets=greets) as (channel, _):
        watching = asyncio.create_task(channel.watch())
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(channel.unary("/a.B/C", b""), 10)
        assert caught.value.code is Code.UNAVAILABLE
        await watching


async def test_a_server_that_answers_anything_stays(monkeypatch):
    monkeypatch.setattr(channels, "_ASK_SECONDS", 0.01)
    monkeypatch.setattr(channels, "_ANSWER_SECONDS", 5)
    async with joined({"/a.B/C": unary(double)}) as channel:
        watching = asyncio.create_task(channel.watch())
        await asyncio.sleep(0.3)
        assert await channel.unary("/a.B/C", b"x") == b"xx"
        watching.cancel()
