"""Networks taken down behind their containers' ends: when, and who gets them sooner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from orlop.network.releases import Releases
from orlop.network.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orlop.network.attachments import Attachments
    from orlop.network.container import ContainerDriver

SANDBOX = Sandbox("s", "bridge", None)


class Recorder:
    """Stands for Attachments: writes down what it is asked for."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def hide(self, container_id: str, _sandbox: Sandbox) -> None:
        self.done.append(f"hide {container_id}")

    async def release(self, container_id: str, _sandbox: Sandbox) -> list[object]:
        self.done.append(f"release {container_id}")
        return []


def begin() -> tuple[Releases, Recorder]:
    releases, recorder = Releases({}, shared=cast("ContainerDriver", None)), Recorder()
    releases.begin("c", SANDBOX, cast("Attachments", recorder))
    return releases, recorder


async def test_who_waits_for_the_end_is_answered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop.network.releases._AFTER_ANSWER", 60)
    releases, recorder = begin()
    for _ in range(20):  # a handler's steps until its answer is written
        await asyncio.sleep(0)
    assert recorder.done == ["hide c"]
    await releases.hasten()
    assert recorder.done == ["hide c", "release c"]
    await releases.close()


async def test_it_is_released_though_nobody_needs_it() -> None:
    releases, recorder = begin()
    async with asyncio.timeout(30):
        while len(recorder.done) < 2:
            await asyncio.sleep(0.001)
    assert recorder.done == ["hide c", "release c"]
    await releases.close()


@pytest.mark.parametrize("wait", [lambda releases: releases.settle(), lambda releases: releases.wait_for("c")])
async def test_who_needs_it_does_not_wait_for_the_others_answer(
    wait: Callable[[Releases], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlop.network.releases._AFTER_ANSWER", 60)
    releases, recorder = begin()
    async with asyncio.timeout(30):
        await wait(releases)
    assert recorder.done == ["hide c", "release c"]
    await releases.close()
