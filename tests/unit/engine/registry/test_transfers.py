"""Work that several clients share."""

import asyncio

import pytest

from orlop.engine.registry.transfers import Transfers
from orlop.errors import InvalidParameterError


class Blob:
    """Work whose first run fails when told."""

    def __init__(self):
        self.runs = 0
        self.fail = asyncio.Event()

    async def work(self, report):
        self.runs += 1
        if self.runs == 1:
            await self.fail.wait()
            raise InvalidParameterError("broken")
        report("Pull complete")
        return self.runs


async def test_what_another_began_is_begun_again_when_it_fails():
    blob, transfers = Blob(), Transfers()
    first = asyncio.create_task(transfers.join("blob", blob.work))
    second = asyncio.create_task(transfers.join("blob", blob.work))
    await asyncio.sleep(0)
    blob.fail.set()
    with pytest.raises(InvalidParameterError):
        await first
    assert await second == 2
    await asyncio.sleep(0)
    assert transfers.keys() == []


async def test_work_that_failed_just_now_is_not_waited_for():
    """Else the loop would spin: waiting for what has ended gives nobody a turn, so that it is never forgotten."""
    blob, transfers = Blob(), Transfers()
    joined: list[asyncio.Task[int]] = []

    async def work(report):
        try:
            return await blob.work(report)
        finally:
            if not joined:  # runs after this task has ended, before its callbacks
                joined.append(asyncio.create_task(transfers.join("blob", blob.work)))

    first = asyncio.create_task(transfers.join("blob", work))
    await asyncio.sleep(0)
    blob.fail.set()
    with pytest.raises(InvalidParameterError):
        await first
    assert await joined[0] == 2
    await asyncio.sleep(0)
    assert transfers.keys() == []


async def test_listeners_hear_the_last_state_at_once():
    transfers, heard = Transfers(), []
    started = asyncio.Event()

    async def work(report):
        report("Downloading", 1, 2)
        started.set()
        await asyncio.sleep(0)
        report("Download complete")
        return 1

    first = asyncio.create_task(transfers.join("blob", work))
    await started.wait()
    assert await transfers.join("blob", work, lambda *state: heard.append(state)) == 1
    assert heard == [("Downloading", 1, 2), ("Download complete", 0, 0)]
    await first
