"""Work that several clients wait for: done once, and given up only when the last of them has left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar, cast

from orlop.errors import OrlopError

T = TypeVar("T")
Report = Callable[..., None]  # status, current, total


class _Transfer(Generic[T]):
    def __init__(self) -> None:
        self.task: asyncio.Task[T]
        self.users = 0
        self._listeners: list[Report] = []
        self._last: tuple[object, ...] | None = None

    def report(self, status: str, current: int = 0, total: int = 0) -> None:
        self._last = status, current, total
        for listener in self._listeners:
            listener(status, current, total)

    def listen(self, listener: Report) -> None:
        self._listeners.append(listener)
        if self._last is not None:
            listener(*self._last)

    def leave(self, listener: Report | None) -> None:
        if listener is not None:
            self._listeners.remove(listener)
        self.users -= 1


class Transfers:
    """Owns the running transfers, by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Transfer[object]] = {}
        self._ending: dict[Hashable, asyncio.Task[object]] = {}

    def keys(self) -> list[Hashable]:
        """Return the keys of what is being done."""
        return [*self._running, *self._ending]

    async def join(
        self,
        key: Hashable,
        work: Callable[[Report], Awaitable[T]],
        listener: Report | None = None,
        *,
        take: Callable[[T], None] | None = None,
        drop: Callable[[T], None] | None = None,
    ) -> T:
        """Wait for the work of this key, which is begun if it is not being done.

        Args:
            key: what makes two pieces of work the same.
            work: called with a function that tells listeners of its state.
            listener: is told the last state at once, and then all others.
            take: called for each who waits, with the result, before the next call of ``drop``.
            drop: called with the result when the last one has it.

        When work that another client began fails, which may be due to that client, it is begun again.
        """
        while True:
            transfer = self._running.get(key)
            # One that has just ended is forgotten only in the loop's next round; to wait for it would not wait at all.
            started = transfer is None or transfer.task.done()
            if transfer is None or started:
                transfer = self._start(key, work)
            try:
                return await self._wait(key, cast("_Transfer[T]", transfer), listener, take, drop)
            except OrlopError:
                if started:
                    raise

    def _start(self, key: Hashable, work: Callable[[Report], Awaitable[T]]) -> _Transfer[object]:
        transfer: _Transfer[object] = _Transfer()
        before = self._ending.get(key)

        async def run() -> object:
            if before is not None:
                await asyncio.wait([before])
            return await work(transfer.report)

        transfer.task = asyncio.create_task(run())
        self._running[key] = transfer
        transfer.task.add_done_callback(lambda _: self._forget(key, transfer))
        return transfer

    def _forget(self, key: Hashable, transfer: _Transfer[object]) -> None:
        if self._running.get(key) is transfer:
            del self._running[key]
        if self._ending.get(key) is transfer.task:
            del self._ending[key]
        if not transfer.task.cancelled():
            transfer.task.exception()  # seen, also when nobody waits any more

    async def _wait(
        self,
        key: Hashable,
        transfer: _Transfer[T],
        listener: Report | None,
        take: Callable[[T], None] | None,
        drop: Callable[[T], None] | None,
    ) -> T:
        transfer.users += 1
        if listener is not None:
            transfer.listen(listener)
        try:
            result = await asyncio.shield(transfer.task)
            if take is not None:
                take(result)
            return result
        finally:
            transfer.leave(listener)
            if not transfer.users:
                await self._end(key, transfer, drop)

    async def _end(self, key: Hashable, transfer: _Transfer[T], drop: Callable[[T], None] | None) -> None:
        task = transfer.task
        if not task.done():
            if self._running.get(key) is cast("_Transfer[object]", transfer):
                del self._running[key]
            self._ending[key] = cast("asyncio.Task[object]", task)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OrlopError):
                await asyncio.shield(task)
        elif drop is not None and not task.cancelled() and task.exception() is None:
            drop(task.result())
