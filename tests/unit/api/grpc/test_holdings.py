"""What connections hold of what their peers send: counted, bounded one by one and together (threats.md F4, H8)."""

import asyncio
import contextlib
import tracemalloc

import pytest

from fake_buildkit_client import joined
from orlop.api.buildkit.control_messages import CacheEntry, CacheOptions, SolveRequest
from orlop.api.grpc.framing import MESSAGE_LIMIT, frame
from orlop.api.grpc.holdings import CALL_COST, CONNECTION_COST, CONNECTION_LIMIT, Account, Holding, Ledger
from orlop.api.grpc.server import unary, unary_of
from orlop.api.grpc.status import CallError, Code
from orlop.api.grpc.windows import MOST_WINDOW, WINDOW

IDLE = CONNECTION_COST + WINDOW


async def double(_stream, request):
    return request * 2


async def wait(_stream, _request):
    await asyncio.Event().wait()


async def eat(stream):
    while await stream.receive() is not None:
        pass


async def turns():
    for _ in range(50):
        await asyncio.sleep(0.001)


def test_a_caller_may_hold_what_is_left_for_others():
    ledger = Ledger(1200)
    accounts = [Account(ledger, caller) for caller in ("one", "one", "two", "three")]
    for account in accounts:
        with contextlib.suppress(CallError):
            while True:
                account.add(10)
    assert [account.held for account in accounts] == [600, 0, 300, 150]
    accounts[0].count(-600)
    assert accounts[3].room == 600
    assert ledger.held == 450


def test_a_connection_has_a_limit_of_its_own():
    account = Account(Ledger(CONNECTION_LIMIT * 10), "one")
    account.add(CONNECTION_LIMIT)
    with pytest.raises(CallError, match=r"grpc: received message larger than max \(1 vs. 0\)") as caught:
        account.add(1)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_what_comes_is_counted_until_it_is_done_with():
    """Messages of all sizes, calls that end in every way: nothing stays counted."""
    ledger = Ledger()

    async def fail(_stream, _request):
        raise ZeroDivisionError

    methods = {"/a.B/Double": unary(double), "/a.B/Wait": unary(wait), "/a.B/Eat": eat, "/a.B/Fail": unary(fail)}
    async with joined(methods, ledger) as channel:
        for size in (0, 10, WINDOW // 2, WINDOW * 3):
            assert len(await channel.unary("/a.B/Double", bytes(size))) == size * 2
            with pytest.raises(CallError):
                await channel.unary("/a.B/Fail", bytes(size))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await channel.unary("/a.B/Wait", bytes(size))
        async with await channel.stream("/a.B/Eat") as stream:
            for _ in range(40):
                await stream.send(bytes(300_000))
            await turns()
            assert ledger.held < IDLE + MOST_WINDOW + CALL_COST + 2000
            await channel._connection.send(stream, frame(bytes(MESSAGE_LIMIT))[:1000])
            await turns()
            assert ledger.held > IDLE + CALL_COST + MESSAGE_LIMIT
        stream = await channel.stream("/a.B/Nothing")
        stream.close()
        await turns()
        assert IDLE < ledger.held <= CONNECTION_COST + MOST_WINDOW
    await turns()
    assert ledger.held == 0


async def test_messages_that_are_not_whole_are_bounded():
    """Each is counted whole from its first bytes on; who sends one too much is told, and others go on."""
    ledger = Ledger()
    async with joined({"/a.B/Eat": eat, "/a.B/Double": unary(double)}, ledger) as channel:
        streams = [await channel.stream("/a.B/Eat") for _ in range(6)]
        for stream in streams:
            with contextlib.suppress(CallError):
                await channel._connection.send(stream, frame(bytes(MESSAGE_LIMIT))[:-1])
        told = []
        for stream in streams[3:]:
            with pytest.raises(CallError, match="grpc: received message larger than max") as caught:
                await asyncio.wait_for(stream.receive(), 10)
            told.append(caught.value.code)
        assert told == [Code.RESOURCE_EXHAUSTED] * 3
        assert ledger.held <= CONNECTION_LIMIT
        for stream in streams[:3]:
            await channel._connection.send(stream, b"\0")
            await stream.end()
            assert await asyncio.wait_for(stream.receive(), 10) is None
        assert await channel.unary("/a.B/Double", bytes(MESSAGE_LIMIT // 2)) == bytes(MESSAGE_LIMIT)


async def test_what_nobody_receives_stays_with_its_sender():
    """A handler that has what it wants looks at nothing more: the second message of each call waits."""

    async def wait_after(stream):
        await stream.receive()
        await asyncio.Event().wait()

    ledger, sent = Ledger(), 0
    async with joined({"/a.B/Wait": wait_after, "/a.B/Double": unary(double)}, ledger) as channel:

        async def send():
            nonlocal sent
            stream = await channel.stream("/a.B/Wait")
            await stream.send(b"x")
            for _ in range(1000):
                await channel._connection.send(stream, bytes(10_000))
                sent += 10_000

        first = [asyncio.create_task(send()) for _ in range(3)]
        await turns()
        assert await asyncio.wait_for(channel.unary("/a.B/Double", b"x"), 10) == b"xx"  # there is room for others
        more = [asyncio.create_task(send()) for _ in range(20)]
        await turns()
        assert 0 < sent <= WINDOW
        assert ledger.held < IDLE + 24 * (CALL_COST + 5000)
        for task in first + more:
            task.cancel()
        await asyncio.gather(*first, *more, return_exceptions=True)


async def test_calls_and_their_headers_are_counted():
    ledger = Ledger(IDLE * 2 + 40 * CALL_COST)
    async with joined({"/a.B/Wait": unary(wait)}, ledger) as channel:
        streams = [await channel.stream("/a.B/Wait", {f"x{one}": "y" for one in range(20)}) for _ in range(30)]
        with pytest.raises(CallError, match="larger than max") as caught:
            await asyncio.wait_for(streams[-1].receive(), 10)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.close()
        await turns()
        assert ledger.held == IDLE


async def test_connections_have_an_end_and_others_come_through():
    """One caller's: it is told, and another one is served."""
    ledger = Ledger(IDLE * 8 + IDLE // 2)
    async with contextlib.AsyncExitStack() as stack:
        methods = {"/a.B/C": unary(double)}
        for _ in range(4):
            channel = await stack.enter_async_context(joined(methods, ledger))
            assert await channel.unary("/a.B/C", b"x") == b"xx"
        with pytest.raises(CallError, match="larger than max"):
            async with joined(methods, ledger) as channel:
                with pytest.raises(CallError):
                    await asyncio.wait_for(channel.unary("/a.B/C", b"x"), 10)
                Account(ledger, "another").add(IDLE)
                assert ledger.held_by("another") == IDLE


async def test_windows_grow_only_while_there_is_room():
    ledger = Ledger(IDLE * 2 + (20 << 20))
    async with joined({"/a.B/Eat": eat}, ledger) as channel, await channel.stream("/a.B/Eat") as stream:
        for _ in range(2000):
            await stream.send(bytes(32_000))
        await turns()
        assert IDLE + WINDOW < ledger.held < IDLE + (4 << 20)


def requests():
    """What takes most here of what a client can ask for."""
    many = CacheOptions(imports=[CacheEntry() for _ in range(19_000)])
    return {
        "build arguments": SolveRequest(attributes={f"build-arg:X{number}": "x" * 1000 for number in range(5000)}),
        "empty messages": SolveRequest(cache=many),
        "empty texts": SolveRequest(entitlements=[""] * 19_000),
        "names": SolveRequest(attributes={str(number): "" for number in range(6000)}),
        "wide characters": SolveRequest(session="x" * 1_000_000 + "\N{GRINNING FACE}"),
    }


@pytest.mark.parametrize("what", requests())
def test_what_a_request_takes_is_known(what):
    data = requests()[what].encode()
    tracemalloc.start()
    request, size = SolveRequest.measured(data)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken * 0.9 < size < taken * 3 + (2 << 20)
    assert request == requests()[what]


async def test_a_request_is_counted_as_what_it_is_made_into():
    """Forty kilobytes of empty messages are megabytes of objects; what was sent is let go."""
    ledger = Ledger()

    async def hold(_stream, _request):
        await asyncio.Event().wait()

    data = requests()["empty messages"].encode()
    size = SolveRequest.measured(data)[1]
    async with joined({"/a.B/C": unary_of(SolveRequest, hold)}, ledger) as channel:
        calls = [asyncio.create_task(channel.unary("/a.B/C", data)) for _ in range(20)]
        await asyncio.wait_for(asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED), 20)
        await turns()
        refused = [call.exception().code for call in calls if call.done()]
        assert refused == [Code.RESOURCE_EXHAUSTED] * (20 - (CONNECTION_LIMIT - IDLE) // size)
        assert ledger.held < CONNECTION_LIMIT
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def test_what_is_let_go_twice_is_counted_once():
    account = Account(Ledger(), "me")
    holding = Holding(account)
    holding.add(100)
    holding.let_go()
    holding.let_go()
    assert account.held == account.ledger.held == 0
    assert account.ledger.held_by("me") == 0
