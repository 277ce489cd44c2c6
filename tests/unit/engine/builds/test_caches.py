"""Cache directories: none that a step holds is removed, whatever is pruned meanwhile."""

import asyncio
import os
import types

from orlop.engine.builds.caches import SCHEMA, CacheDirectories, CacheWish
from orlop.engine.database import Database


def test_what_is_held_stays(tmp_path):
    buried = []
    removals = types.SimpleNamespace(bury=buried.extend)
    caches = CacheDirectories(str(tmp_path / "caches"), Database(str(tmp_path / "db"), [SCHEMA]), removals)
    caches.clean()

    async def fill(target):
        with open(f"{target}/file", "x"):
            pass

    async def scenario():
        async with caches.hold([CacheWish("a", "shared", fill)]) as first:
            async with caches.hold([CacheWish("a", "shared", fill)]) as second:
                assert first == second
                [found] = await caches.usage()
                assert (found.name, found.uses, found.in_use) == ("a", 2, True)
                assert caches.remove([found.id]) == []
            assert caches.remove([found.id]) == []  # one of the two holds it still
            assert os.listdir(first["a"]) == ["file"]
        assert caches.remove([found.id]) == [found.id]
        assert not os.path.exists(first["a"])
        assert len(buried) == 1
        assert await caches.usage() == []

    asyncio.run(scenario())
