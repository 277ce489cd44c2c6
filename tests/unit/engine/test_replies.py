import asyncio

import pytest

from orlop.engine import replies
from orlop.errors import ConflictError, UnavailableError


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Keep a child for as long as a test takes."""
    monkeypatch.setattr(replies, "IDLE_SECONDS", 600)


async def asked(child):
    message, _ = await asyncio.to_thread(child.receive)
    return message["path"]


async def removed_by_new(spawner, fake, path):
    task = asyncio.create_task(spawner.remove_tree(path))
    message, child, _ = await fake.take()
    assert message == {"op": "remove-tree", "path": path}
    child.send({"ok": True})
    await task
    return child


async def test_the_same_child_is_asked_again(fake_spawner):
    spawner, fake = fake_spawner
    child = await removed_by_new(spawner, fake, "/first")
    for path in ("/second", "/third"):
        task = asyncio.create_task(spawner.remove_tree(path))
        assert await asked(child) == path
        child.send({"ok": True})
        await task
    assert not fake.is_asked()
    child.close()


async def test_one_that_is_busy_is_not_waited_for(fake_spawner):
    spawner, fake = fake_spawner
    slow = asyncio.create_task(spawner.remove_tree("/slow"))
    _, busy, _ = await fake.take()
    quick = asyncio.create_task(spawner.remove_tree("/quick"))
    message, other, _ = await fake.take()
    assert message["path"] == "/quick"
    other.send({"ok": True})
    await quick
    assert await asyncio.to_thread(other.receive) is None
    busy.send({"ok": True})
    await slow
    other.close()
    busy.close()


async def test_one_that_died_meanwhile_is_replaced(fake_spawner):
    spawner, fake = fake_spawner
    child = await removed_by_new(spawner, fake, "/first")
    child.close()
    (await removed_by_new(spawner, fake, "/second")).close()  # whether or not its end was read before
    await asyncio.sleep(0.01)
    (await removed_by_new(spawner, fake, "/third")).close()


async def test_one_that_dies_at_its_work_fails_that_only(fake_spawner):
    spawner, fake = fake_spawner
    child = await removed_by_new(spawner, fake, "/first")
    task = asyncio.create_task(spawner.remove_tree("/second"))
    await asked(child)
    child.close()
    with pytest.raises(UnavailableError):
        await task
    (await removed_by_new(spawner, fake, "/third")).close()


async def test_one_that_failed_is_let_go(fake_spawner):
    spawner, fake = fake_spawner
    task = asyncio.create_task(spawner.remove_tree("/first"))
    _, child, _ = await fake.take()
    child.send({"error": {"kind": "conflict", "message": "busy"}})
    with pytest.raises(ConflictError, match="busy"):
        await task
    assert await asyncio.to_thread(child.receive) is None
    child.close()


async def test_what_is_not_waited_for_any_more_is_answered_to_nobody(fake_spawner):
    spawner, fake = fake_spawner
    task = asyncio.create_task(spawner.remove_tree("/first"))
    _, child, _ = await fake.take()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(child.receive) is None
    other = await removed_by_new(spawner, fake, "/second")
    child.close()
    other.close()


async def test_one_without_work_is_let_go(fake_spawner, monkeypatch):
    spawner, fake = fake_spawner
    monkeypatch.setattr(replies, "IDLE_SECONDS", 0.02)
    child = await removed_by_new(spawner, fake, "/first")
    assert await asyncio.to_thread(child.receive) is None
    child.close()


async def test_none_outlives_the_engine(fake_spawner):
    spawner, fake = fake_spawner
    child = await removed_by_new(spawner, fake, "/first")
    await spawner.close()
    assert await asyncio.to_thread(child.receive) is None
    child.close()
