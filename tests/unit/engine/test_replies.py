import asyncio
import socket

import pytest

from orlop.engine import replies
from orlop.engine.spawner import Spawner
from orlop.errors import ConflictError, UnavailableError
from orlop.primitives.channel import Channel


class FakeSpawner:
    """The other end of the spawner's socket, and the children that it has forked."""

    def __init__(self):
        self.peer = None

    def start(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer = Channel(theirs)
        return ours

    async def fork(self):
        """Take the request that the spawner got; returns what it asks for and the child's channel."""
        message, fds = await asyncio.to_thread(self.peer.receive)
        return message, Channel.from_fd(fds[0])

    def forked_another(self):
        self.peer.set_blocking(False)
        try:
            self.peer.receive()
        except BlockingIOError:
            return False
        finally:
            self.peer.set_blocking(True)
        return True


async def asked(child):
    message, _ = await asyncio.to_thread(child.receive)
    return message["path"]


@pytest.fixture
async def engine():
    fake = FakeSpawner()
    spawner = Spawner(fake.start)
    spawner.open()
    yield spawner, fake
    await spawner.close()
    fake.peer.close()


async def removed_by_new(spawner, fake, path):
    task = asyncio.create_task(spawner.remove_tree(path))
    message, child = await fake.fork()
    assert message == {"op": "remove-tree", "path": path}
    child.send({"ok": True})
    await task
    return child


async def test_the_same_child_is_asked_again(engine):
    spawner, fake = engine
    child = await removed_by_new(spawner, fake, "/first")
    for path in ("/second", "/third"):
        task = asyncio.create_task(spawner.remove_tree(path))
        assert await asked(child) == path
        child.send({"ok": True})
        await task
    assert not fake.forked_another()
    child.close()


async def test_one_that_is_busy_is_not_waited_for(engine):
    spawner, fake = engine
    slow = asyncio.create_task(spawner.remove_tree("/slow"))
    _, busy = await fake.fork()
    quick = asyncio.create_task(spawner.remove_tree("/quick"))
    message, other = await fake.fork()
    assert message["path"] == "/quick"
    other.send({"ok": True})
    await quick
    assert await asyncio.to_thread(other.receive) is None
    busy.send({"ok": True})
    await slow
    other.close()
    busy.close()


async def test_one_that_died_meanwhile_is_replaced(engine):
    spawner, fake = engine
    child = await removed_by_new(spawner, fake, "/first")
    child.close()
    (await removed_by_new(spawner, fake, "/second")).close()  # whether or not its end was read before
    await asyncio.sleep(0.01)
    (await removed_by_new(spawner, fake, "/third")).close()


async def test_one_that_dies_at_its_work_fails_that_only(engine):
    spawner, fake = engine
    child = await removed_by_new(spawner, fake, "/first")
    task = asyncio.create_task(spawner.remove_tree("/second"))
    await asked(child)
    child.close()
    with pytest.raises(UnavailableError):
        await task
    (await removed_by_new(spawner, fake, "/third")).close()


async def test_one_that_failed_is_let_go(engine):
    spawner, fake = engine
    task = asyncio.create_task(spawner.remove_tree("/first"))
    _, child = await fake.fork()
    child.send({"error": {"kind": "conflict", "message": "busy"}})
    with pytest.raises(ConflictError, match="busy"):
        await task
    assert await asyncio.to_thread(child.receive) is None
    child.close()


async def test_what_is_not_waited_for_any_more_is_answered_to_nobody(engine):
    spawner, fake = engine
    task = asyncio.create_task(spawner.remove_tree("/first"))
    _, child = await fake.fork()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(child.receive) is None
    other = await removed_by_new(spawner, fake, "/second")
    child.close()
    other.close()


async def test_one_without_work_is_let_go(engine, monkeypatch):
    spawner, fake = engine
    monkeypatch.setattr(replies, "IDLE_SECONDS", 0.02)
    child = await removed_by_new(spawner, fake, "/first")
    assert await asyncio.to_thread(child.receive) is None
    child.close()


async def test_none_outlives_the_engine(engine):
    spawner, fake = engine
    child = await removed_by_new(spawner, fake, "/first")
    await spawner.close()
    assert await asyncio.to_thread(child.receive) is None
    child.close()
