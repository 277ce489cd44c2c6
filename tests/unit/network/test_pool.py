"""The pool of ready namespaces is full again after everything that was taken, whenever that was."""

from __future__ import annotations

import asyncio

import pytest

from orlop.network.pool import NamespacePool


class Ready:
    """Stands for a namespace."""

    def close(self) -> None:
        pass


async def test_what_is_taken_while_it_is_filled_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = NamespacePool(None, size=2, mtu=1500)  # type: ignore[arg-type]  # nothing is asked of the factory
    making, go_on = asyncio.Queue[str](), asyncio.Semaphore(0)

    async def make(kind: str) -> Ready:
        making.put_nowait(kind)
        await go_on.acquire()
        return Ready()

    monkeypatch.setattr(pool, "_make", lambda: make("with links"))
    monkeypatch.setattr(pool, "_make_plain", lambda: make("plain"))
    pool.refill_soon()
    for expected in ("with links", "with links", "plain"):
        assert await making.get() == expected
        if expected == "with links":
            go_on.release()
    await pool.take()
    for _ in range(2):
        go_on.release()
    await pool.fill()
    assert (len(pool._ready), len(pool._plain)) == (2, 1)
    await pool.close()
