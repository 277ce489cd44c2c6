"""Streams that are poured into work which reads a pipe."""

import asyncio
import os

import pytest

from orlop.errors import InvalidParameterError
from orlop.image.feed import pour


async def endless():
    yield b"x"
    await asyncio.Event().wait()


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_the_work_has_ended_when_who_pours_is_cancelled(times):
    """However often: what it works on is removed next."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def work(fd):
        began.set()
        while await asyncio.to_thread(os.read, fd, 100):
            pass
        await asyncio.sleep(0.05)
        ended.set()
        raise InvalidParameterError("unexpected EOF")

    task = asyncio.create_task(pour(endless(), work, compressed=False))
    await began.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_who_is_cancelled_while_the_work_ends_is_cancelled():
    """And does not begin again, as he would after the stream's own error."""
    ending = asyncio.Event()

    async def broken():
        yield b"x"
        raise InvalidParameterError("began again")

    async def work(fd):
        while await asyncio.to_thread(os.read, fd, 100):
            pass
        ending.set()
        await asyncio.sleep(0.05)

    task = asyncio.create_task(pour(broken(), work, compressed=False))
    await ending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_work_says_why_it_stopped_reading():
    async def work(_fd):
        raise InvalidParameterError("too many entries")

    async def much():
        for _ in range(100):
            yield bytes(1 << 20)

    with pytest.raises(InvalidParameterError, match="too many entries"):
        await pour(much(), work, compressed=False)


async def test_what_was_poured_has_a_digest_and_a_result():
    async def stream():
        yield b"a"
        yield b"b"

    async def work(fd):
        return await asyncio.to_thread(os.read, fd, 100)

    digest, result = await pour(stream(), work, compressed=False)
    assert (digest.hex, result) == ("fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603", b"ab")
