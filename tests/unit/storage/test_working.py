"""Slow drivers work in threads: the engine's loop serves others, and who is cancelled leaves nothing."""

import asyncio
import sqlite3
import threading

import pytest

from orlop.errors import ConflictError, NotFoundError
from orlop.spec.digest import Digest
from orlop.storage import SCHEMA, LayerStore, trees
from orlop.storage.choice import DRIVERS

PATIENCE = 60


class Gate:
    """Where a thread waits until the loop lets it through: if the loop itself came here, nobody would."""

    def __init__(self, monkeypatch):
        self.reached = threading.Event()
        self.open = threading.Event()
        real = trees.copy_tree

        def copy_tree(source, target):
            self.reached.set()
            if not self.open.wait(PATIENCE):
                raise TimeoutError("the event loop stood still")
            real(source, target)

        monkeypatch.setattr(trees, "copy_tree", copy_tree)

    async def wait(self):
        await asyncio.to_thread(self.reached.wait, PATIENCE)


@pytest.fixture
def store(tmp_path):
    database = sqlite3.connect(tmp_path / "db", isolation_level=None)
    database.executescript(SCHEMA)
    driver = DRIVERS["vfs"](str(tmp_path / "layers"), {})
    store = LayerStore(database, driver)
    store.load({})
    yield store
    driver.close()
    database.close()


async def make_layer(store, number, parent=None):
    key, _ = await store.begin(parent)
    chain, _ = await store.finish(key, Digest(f"{number:064x}"), parent, size=0)
    return chain


def test_copying_a_tree_does_not_stop_the_loop(store, monkeypatch):
    async def work():
        chain = await make_layer(store, 1)
        await store.prepare_init(chain)
        gate = Gate(monkeypatch)
        creating = asyncio.create_task(store.create_container("c" * 64, chain))
        await gate.wait()
        assert not store.has_container("c" * 64)
        assert store.lost() == []  # it is being made, not lost
        with pytest.raises(ConflictError):
            store.driver.prepare("c" * 64, None)
        with pytest.raises(ConflictError):
            store.driver.remove(chain.hex + "-init")
        gate.open.set()
        await creating
        assert store.has_container("c" * 64)

    asyncio.run(work())


def test_who_is_cancelled_leaves_nothing(store, monkeypatch):
    async def work():
        chain = await make_layer(store, 1)
        await store.prepare_init(chain)
        keys = sorted(store.driver.keys())
        gate = Gate(monkeypatch)
        creating = asyncio.create_task(store.create_container("c" * 64, chain))
        await gate.wait()
        creating.cancel()
        await asyncio.sleep(0)
        assert not creating.done()  # the thread cannot be stopped
        creating.cancel()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert sorted(store.driver.keys()) == keys
        assert not store.has_container("c" * 64)
        # the layer is not in use: it goes with its last user
        assert len(store.release(chain)) == 2
        assert store.driver.keys() == []

    asyncio.run(work())


def test_one_init_layer_for_all_who_need_it(store, monkeypatch):
    async def work():
        chain = await make_layer(store, 1)
        gate = Gate(monkeypatch)
        creating = [asyncio.create_task(store.create_container(digit * 64, chain)) for digit in "abc"]
        await gate.wait()
        gate.open.set()
        await asyncio.gather(*creating)
        assert sorted(store.driver.keys()) == sorted(
            [chain.hex, chain.hex + "-init", "a" * 64, "b" * 64, "c" * 64],
        )

    asyncio.run(work())


def test_the_same_layer_finished_twice_is_one(store):
    async def work():
        chains = await asyncio.gather(*(make_layer(store, 1) for _ in range(4)))
        assert len(set(chains)) == 1
        assert store.driver.keys() == [chains[0].hex]

    asyncio.run(work())


def test_a_failure_of_the_thread_is_the_callers(store):
    async def work():
        with pytest.raises(NotFoundError):
            await store.create_container("c" * 64, Digest("1" * 64))

    asyncio.run(work())
    assert store.lost() == []
