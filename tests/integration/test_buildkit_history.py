"""The history of builds (``docker buildx history``), by the calls that buildx makes."""

import asyncio
import contextlib

import pytest
from buildkit_lab import control_of, solve

from fake_buildkit_client import FakeClient, file
from harness import PATIENCE
from orlop.api.buildkit.control_messages import StatusRequest, StatusResponse
from orlop.api.buildkit.history_messages import (
    COMPLETE,
    DELETED,
    STARTED,
    HistoryEvent,
    HistoryRequest,
    UpdateHistoryRequest,
)
from orlop.api.grpc.status import CallError

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "busybox")]
CONTROL = "/moby.buildkit.v1.Control/"


def client(dockerfile: str) -> FakeClient:
    return FakeClient({"dockerfile": {"Dockerfile": file(dockerfile.encode())}, "context": {}})


async def called(control, method: str, request: bytes) -> list[bytes]:
    """Return all messages of a call that ends by itself."""
    async with await control.stream(f"{CONTROL}{method}") as stream:
        await stream.send(request)
        await stream.end()
        found = []
        while (data := await stream.receive()) is not None:
            found.append(data)
        return found


async def listed(control, **wanted) -> list[HistoryEvent]:
    request = HistoryRequest(early_exit=True, **wanted).encode()
    return [HistoryEvent.decode(data) for data in await called(control, "ListenBuildHistory", request)]


async def forget_all(control) -> None:
    for event in await listed(control):
        request = UpdateHistoryRequest(ref=event.record.ref, delete=True)
        await control.unary(f"{CONTROL}UpdateBuildHistory", request.encode())


async def test_builds_are_listed_told_again_pinned_and_forgotten(engine, images) -> None:
    async with control_of(engine) as control:
        await forget_all(control)
        answer = await solve(engine, client("FROM busybox\nRUN echo said\n"), [], target="", **{"label:x": "y"})
        with pytest.raises(CallError):
            await solve(engine, client("FROM busybox\nRUN exit 3\n"), [])
        failed, good = await listed(control)
        assert (failed.type, good.type) == (COMPLETE, COMPLETE)
        assert "exit code: 3" in failed.record.error.message
        assert good.record.error is None
        assert good.record.frontend == "dockerfile.v0"
        assert good.record.attributes["label:x"] == "y"
        assert good.record.response == answer
        assert good.record.steps == good.record.completed_steps > 1
        assert good.record.completed.seconds >= good.record.created.seconds > 1_600_000_000
        assert good.record.logs.size > 0

        told = await called(control, "Status", StatusRequest(ref=good.record.ref).encode())
        said = b"".join(log.data for data in told for log in StatusResponse.decode(data).logs)
        assert b"said" in said

        assert [one.record.ref for one in await listed(control, ref=good.record.ref)] == [good.record.ref]
        assert [one.record.ref for one in await listed(control, filter=["status==error"])] == [failed.record.ref]
        assert len(await listed(control, limit=1)) == 1
        assert await listed(control, active_only=True) == []

        pin = UpdateHistoryRequest(ref=good.record.ref, pinned=True)
        await control.unary(f"{CONTROL}UpdateBuildHistory", pin.encode())
        (again,) = await listed(control, ref=good.record.ref)
        assert (again.record.pinned, again.record.generation) == (True, 1)
        await forget_all(control)
        assert await listed(control) == []


async def test_listeners_hear_of_builds_as_they_come(engine, images) -> None:
    async with control_of(engine) as control:
        await forget_all(control)
        await solve(engine, client("FROM busybox\n"), [])
        stream = await control.stream(f"{CONTROL}ListenBuildHistory")
        await stream.send(HistoryRequest().encode())
        await stream.end()

        async def heard() -> HistoryEvent:
            return HistoryEvent.decode(await asyncio.wait_for(stream.receive(), 20 * PATIENCE))

        before = await heard()  # so it is listened
        await solve(engine, client("FROM busybox\nRUN true\n"), [])
        began, ended = [await heard() for _ in range(2)]
        assert (before.type, began.type, ended.type) == (COMPLETE, STARTED, COMPLETE)
        assert began.record.ref == ended.record.ref
        assert began.record.completed is None
        await forget_all(control)
        gone = [await heard() for _ in range(2)]
        assert [one.type for one in gone] == [DELETED] * 2
        assert [one.record.ref for one in gone] == [began.record.ref, before.record.ref]
        stream.close()


async def test_client_that_leaves_is_remembered_as_canceled(engine, images) -> None:
    async with control_of(engine) as control:
        await forget_all(control)
        building = asyncio.create_task(solve(engine, client("FROM busybox\nRUN sleep 100\n"), []))
        async with asyncio.timeout(20 * PATIENCE):
            while not await listed(control, active_only=True):
                await asyncio.sleep(0.05)
            while not (await asyncio.to_thread(engine.docker, "ps", "-q")).stdout:
                pass
        building.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await building
        async with asyncio.timeout(20 * PATIENCE):
            while await listed(control, active_only=True):
                await asyncio.sleep(0.05)
        (event,) = await listed(control, filter=["status==canceled"])
        assert event.record.error.message == "context canceled"


async def test_history_outlives_the_engine(own_engine) -> None:
    engine = own_engine
    await solve(engine, client("FROM busybox\nRUN echo said\n"), [])
    engine.kill()
    engine.start()
    async with control_of(engine) as control:
        (event,) = await listed(control)
        told = await called(control, "Status", StatusRequest(ref=event.record.ref).encode())
    assert any(b"said" in log.data for data in told for log in StatusResponse.decode(data).logs)
