"""Files from one tree into another, in two children: one reads the sources, one writes below the target."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from orlop.primitives.tar import Limits
from orlop.spec.launch import OverlayRoot

if TYPE_CHECKING:
    from orlop.engine.spawner import Spawner
    from orlop.spec.json import JsonObject


async def copy_files(spawner: Spawner, request: JsonObject, target: str) -> None:
    """Copy.

    Args:
        spawner: has the children.
        request: what to take and where it goes, as ``runtime.gathering`` has it.
        target: a private directory.

    Raises:
        OrlopError: a source is not there, no space and the like.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    packing = asyncio.ensure_future(spawner.gather({**request, "action": "pack"}, writer))
    packing.add_done_callback(lambda _: os.close(writer))
    unpacking = asyncio.ensure_future(spawner.unpack(OverlayRoot((), upper=target), reader, Limits(), plain=True))
    unpacking.add_done_callback(lambda _: os.close(reader))
    try:
        done, _ = await asyncio.wait((packing, unpacking), return_when=asyncio.FIRST_EXCEPTION)
        # what the reader of the sources says comes first: the other's only that the stream ended
        for task in (packing, unpacking):
            if task in done:
                await task
        await packing
        await unpacking
    except BaseException:
        for task in (packing, unpacking):
            task.cancel()
        await asyncio.gather(packing, unpacking, return_exceptions=True)
        raise
