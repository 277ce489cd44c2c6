from __future__ import annotations

import asyncio
import time

import pytest

from orlop.engine import events as module
from orlop.engine.events import EventFilter, Events
from orlop.errors import InvalidParameterError


async def _take(stream, count):
    async with asyncio.timeout(60):
        return [await anext(stream) for _ in range(count)]


def test_document_has_dockers_fields():
    event = Events().publish(
        "container", "start", "abc", {"image": "busybox", "name": "x"}, time_ns=1_700_000_000_123_456_789
    )
    assert event.document() == {
        "status": "start",
        "id": "abc",
        "from": "busybox",
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "abc", "Attributes": {"image": "busybox", "name": "x"}},
        "scope": "local",
        "time": 1_700_000_000,
        "timeNano": 1_700_000_000_123_456_789,
    }
    assert "status" not in Events().publish("network", "create", "n").document()


async def test_live_events_and_filter():
    bus = Events()
    async with bus.subscribe(EventFilter({"type": ["container"], "label": ["a=1"]})) as stream:
        bus.publish("image", "tag", "i")
        bus.publish("container", "start", "c1", {"a": "2"})
        bus.publish("container", "die", "c2", {"a": "1"})
        assert [event.actor_id for event in await _take(stream, 1)] == ["c2"]
    assert bus.listeners == 0


async def test_replay_since_until_ends():
    bus = Events()
    first = bus.publish("container", "create", "a")
    second = bus.publish("container", "start", "a")
    third = bus.publish("container", "die", "a")
    assert first.time_ns < second.time_ns < third.time_ns
    async with bus.subscribe(since_ns=second.time_ns, until_ns=second.time_ns) as stream:
        assert [event async for event in stream] == [second]
    async with bus.subscribe(until_ns=time.time_ns()) as stream:
        assert [event async for event in stream] == [first, second, third]
    async with bus.subscribe(until_ns=time.time_ns() + 50_000_000) as stream:
        assert [event async for event in stream] == []


async def test_ring_is_bounded(monkeypatch):
    bus = Events()
    for number in range(module.RING_SIZE + 10):
        bus.publish("container", "start", str(number))
    async with bus.subscribe(since_ns=0, until_ns=time.time_ns()) as stream:
        got = [event.actor_id async for event in stream]
    assert (got[0], len(got)) == ("10", module.RING_SIZE)


async def test_slow_listener_is_dropped_and_others_are_not(monkeypatch):
    monkeypatch.setattr(module, "QUEUE_SIZE", 5)
    bus = Events()
    async with bus.subscribe() as slow, bus.subscribe(EventFilter({"event": ["die"]})) as other:
        for number in range(10):
            bus.publish("container", "start", str(number))
        bus.publish("container", "die", "x")
        async with asyncio.timeout(60):
            assert [event.actor_id async for event in slow] == ["0", "1", "2", "3", "4"]
        assert [event.actor_id for event in await _take(other, 1)] == ["x"]


async def test_close_ends_streams():
    bus = Events()
    async with bus.subscribe() as stream:
        task = asyncio.ensure_future(anext(stream, None))
        await asyncio.sleep(0)
        bus.close()
        assert await asyncio.wait_for(task, 60) is None


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"event": ["exec_start"]}, True),
        ({"event": ["exec_create"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["abc"]}, True),
        ({"container": ["bc"]}, False),
        ({"container": ["nope", "web"]}, True),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:latest"]}, True),
        ({"image": ["other"]}, False),
        ({"network": ["web"]}, False),
        ({"scope": ["swarm"]}, False),
        ({"label": ["l", "k=v"]}, True),
        ({"label": ["l", "k=w"]}, False),
    ],
)
def test_filters(filters, matches):
    attributes = {"name": "web", "image": "busybox:latest", "l": "", "k": "v"}
    event = Events().publish("container", "exec_start: sh -c x", "abcdef", attributes)
    assert EventFilter(filters).matches(event) is matches


def test_unknown_filter():
    with pytest.raises(InvalidParameterError, match=r"^invalid filter 'zz'$"):
        EventFilter({"zz": ["a"]})
