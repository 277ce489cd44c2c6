"""Routes of archives of images: save and load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.platforms import single_platform
from orlop.api.progress import answer_with_progress
from orlop.api.responses import ByteStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from orlop.engine.archives import ArchiveService
    from orlop.engine.registry.output import Output


def routes(archives: ArchiveService) -> list[Route]:
    """Return the routes."""

    async def save(call: Call, names: Sequence[str]) -> web.StreamResponse:
        pieces = archives.save(names, platform=single_platform(call))
        async with ByteStream(call, content_type="application/x-tar") as stream:
            async for piece in pieces:
                await stream.write(piece)
        return stream.response

    async def save_many(call: Call) -> web.StreamResponse:
        return await save(call, call.texts("names"))

    async def save_one(call: Call) -> web.StreamResponse:
        return await save(call, [call.variables["name"]])

    async def load(call: Call) -> web.StreamResponse:
        quiet, platform = call.boolean("quiet"), single_platform(call)

        async def work(output: Output) -> None:
            await archives.load(call.chunks(), output, quiet=quiet, platform=platform)

        return await answer_with_progress(call, work, quiet_start=False)

    return [
        Route("POST", "/images/load", load),
        Route("GET", "/images/get", save_many),
        Route("GET", "/images/{name:.*}/get", save_one),
    ]
