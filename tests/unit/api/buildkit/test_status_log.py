"""What a build tells: every reader gets all of it, and nobody who does not read takes memory."""

import asyncio

from orlop.api.buildkit.control_messages import StatusResponse
from orlop.api.buildkit.status_log import StatusLog


async def read(log):
    return [StatusResponse.decode(data) async for data in log.read()]


async def test_every_reader_gets_everything():
    log = StatusLog("ref")
    early = asyncio.create_task(read(log))
    await asyncio.sleep(0)
    step = log.step("[1/2] RUN x").start()
    step.write(2, b"text")
    step.part("layer", 5, 10)
    step.part("layer", 10, 10, over=True)
    step.complete("failed")
    step.complete()  # it is over
    log.close()
    told = await early
    assert await read(log) == told
    (begun,), (ended,) = told[0].vertices, told[-1].vertices
    assert (begun.name, begun.started is not None, begun.completed) == ("[1/2] RUN x", True, None)
    assert (ended.digest, ended.started, ended.error) == (begun.digest, begun.started, "failed")
    assert (told[1].logs[0].stream, told[1].logs[0].data) == (2, b"text")
    first, last = told[2].statuses[0], told[3].statuses[0]
    assert (first.current, first.total, first.completed) == (5, 10, None)
    assert first.started == last.started
    assert last.completed is not None
    assert len(told) == 5


async def test_steps_of_two_builds_are_not_the_same():
    digests = {StatusLog(ref).step("x").digest for ref in ("a", "b")}
    assert len(digests) == 2


async def test_what_nobody_reads_is_bounded():
    log = StatusLog("ref")
    step = log.step("x")
    for _ in range(300):
        step.write(1, bytes(100_000))
        await asyncio.wait_for(log.wait_room(), 60)  # nobody reads: nothing to wait for
    log.close()
    assert sum(len(message.logs[0].data) for message in await read(log)) < 10 << 20


async def test_a_build_waits_for_a_slow_reader():
    log, written = StatusLog("ref"), 0

    async def build():
        nonlocal written
        step = log.step("x")
        for _ in range(300):
            step.write(1, bytes(100_000))
            written += 1
            await log.wait_room()
        log.close()

    reader = log.read()
    first = asyncio.create_task(anext(reader))
    await asyncio.sleep(0)
    building = asyncio.create_task(build())
    await first
    await asyncio.sleep(0.05)
    assert 50 < written < 100
    assert 1 + len([data async for data in reader]) == 300
    await building


async def test_a_reader_that_leaves_lets_the_build_go_on():
    log = StatusLog("ref")
    reader = log.read()
    first = asyncio.create_task(anext(reader))
    await asyncio.sleep(0)
    step = log.step("x")
    for _ in range(200):
        step.write(1, bytes(100_000))
    await first
    waiting = asyncio.create_task(log.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await reader.aclose()
    await asyncio.wait_for(waiting, 60)
