"""Calls of storage drivers that copy trees or wait for a disk: in a thread, while the engine serves others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.storage.contract import Snapshotter

P = ParamSpec("P")
T = TypeVar("T")


async def perform(
    driver: Snapshotter, method: Callable[P, T], undo: Callable[[], object], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a method of a driver; of one that is not slow, at once.

    Args:
        driver: whose method it is.
        method: ``prepare``, ``commit`` or ``replace``.
        undo: called when the caller is cancelled and the method was done all the same.
        args: the method's.
        kwargs: likewise.

    A thread cannot be stopped: who is cancelled waits for its end, and what it made is undone.
    """
    if not driver.slow:
        return method(*args, **kwargs)
    working = asyncio.ensure_future(asyncio.to_thread(method, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return working.result()
    if working.exception() is None:
        undo()
    raise cancelled
