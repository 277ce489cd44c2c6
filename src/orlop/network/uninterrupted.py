"""Work that a cancelled caller must not leave half done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def run_to_end(work: Coroutine[object, object, T]) -> T:
    """Await ``work`` to its end even when the caller is cancelled meanwhile; CancelledError is raised after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # the caller, who would be told, was told something else
        raise
