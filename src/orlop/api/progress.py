"""Answers that tell of progress while the work is done, and end it when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orlop.api.errors import message_of
from orlop.api.responses import JsonStream
from orlop.engine.registry.output import Output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from orlop.api.call import Call


async def answer_with_progress(
    call: Call, work: Callable[[Output], Awaitable[None]], *, quiet_start: bool = True
) -> web.StreamResponse:
    """Do the work and send what it puts into its output.

    Args:
        call: the request.
        work: what to do.
        quiet_start: an error before anything was put is an ordinary HTTP error; else the stream has begun at once.

    Raises:
        OrlopError: of the work, when nothing was sent.
    """
    output = Output()
    task = asyncio.create_task(_run(work, output))
    gone = asyncio.create_task(call.wait_gone())
    gone.add_done_callback(lambda _: task.cancel())
    stream = JsonStream(call)
    try:
        async with stream:
            if not quiet_start:
                await stream.flush()
            async for batch in output.documents():
                for document in batch:
                    await stream.send(document)
            error = await task
            if error is not None:
                if not output.began and not stream.response.prepared:
                    raise error
                await stream.send({"errorDetail": {"message": message_of(error)}, "error": message_of(error)})
        return stream.response
    except asyncio.CancelledError:
        if gone.done() and not gone.cancelled():
            raise ConnectionResetError("client left") from None
        raise
    finally:
        gone.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


async def _run(work: Callable[[Output], Awaitable[None]], output: Output) -> Exception | None:
    """Do the work; an error is its result, so that nobody has to wait for it."""
    try:
        await work(output)
    except Exception as error:  # noqa: BLE001 - handed on
        return error
    finally:
        output.close()
    return None
