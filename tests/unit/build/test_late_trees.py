"""Trees that are made when a step wants them: once, whoever wants them, and not without need."""

import asyncio

import pytest

from orlop.build.steps import LateTree, Tree
from orlop.errors import UnavailableError


async def test_a_tree_is_made_once():
    made = []

    async def make():
        await asyncio.sleep(0.01)
        made.append(Tree(directory="/x"))
        return made[-1]

    late = LateTree(make)
    assert made == []
    trees = await asyncio.gather(*(late.get() for _ in range(3)))
    assert len(made) == 1
    assert all(tree is made[0] for tree in (*trees, await late.get()))


async def test_a_failure_is_everybodys():
    tries = []

    async def make():
        tries.append(1)
        await asyncio.sleep(0.01)
        raise UnavailableError("the client has gone")

    late = LateTree(make)
    found = await asyncio.gather(late.get(), late.get(), return_exceptions=True)
    assert [str(error) for error in found] == ["the client has gone"] * 2
    with pytest.raises(UnavailableError):
        await late.get()
    assert tries == [1]
