"""Routes of ``docker cp`` and ``docker commit``: what goes into and comes out of containers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from orlop.api.call import Call, Route
from orlop.api.call import decode as decode_json
from orlop.api.responses import ByteStream, empty, json_response
from orlop.engine.commits import CommitRequest
from orlop.errors import InvalidParameterError
from orlop.spec.docker.containers import ContainerConfig, decode
from orlop.spec.docker.times import rfc3339

if TYPE_CHECKING:
    from orlop.engine.commits import CommitService
    from orlop.engine.containers import ContainerService
    from orlop.engine.containers.archives import PathStat

_PATH = "/containers/{name}/archive"
_STAT_HEADER = "X-Docker-Container-Path-Stat"


def routes(containers: ContainerService, commits: CommitService) -> list[Route]:
    """Return the routes."""

    async def commit(call: Call) -> web.StreamResponse:
        image = await commits.commit(
            CommitRequest(
                container=call.text("container"),
                repository=call.text("repo"),
                tag=call.text("tag"),
                comment=call.text("comment"),
                author=call.text("author"),
                pause=call.boolean("pause", default=True),
                changes=tuple(call.texts("changes")),
                config=await _config(call),
            )
        )
        return json_response({"Id": str(image.id)}, status=201)

    async def head(call: Call) -> web.StreamResponse:
        name, path = _asked(call)
        found = await containers.archives.stat(containers.get(name), path, name=name)
        return web.Response(headers={_STAT_HEADER: _encode(found)})

    async def get(call: Call) -> web.StreamResponse:
        name, path = _asked(call)
        async with containers.archives.read(containers.get(name), path, name=name) as (found, pieces):
            async with ByteStream(call, content_type="application/x-tar") as stream:
                stream.response.headers[_STAT_HEADER] = _encode(found)
                await stream.flush()
                async for piece in pieces:
                    await stream.write(piece)
            return stream.response

    async def put(call: Call) -> web.StreamResponse:
        name, path = _asked(call)
        await containers.archives.write(
            containers.get(name),
            path,
            call.chunks(),
            name=name,
            keep_kinds=call.boolean("noOverwriteDirNonDir"),
            copy_owner=call.boolean("copyUIDGID"),
        )
        return empty(200)

    return [
        Route("POST", "/commit", commit),
        Route("HEAD", _PATH, head),
        Route("GET", _PATH, get),
        Route("PUT", _PATH, put),
    ]


async def _config(call: Call) -> ContainerConfig | None:
    """Return the configuration in the body; clients send none, ``null`` or an empty one when they have no wish."""
    data = await call.read()
    document = decode_json(data, object) if data.strip() else None
    if document is not None and not isinstance(document, dict):
        raise InvalidParameterError("invalid JSON: not an object")
    return decode(document, ContainerConfig) if document else None


def _asked(call: Call) -> tuple[str, str]:
    path = call.text("path")
    if not path:
        raise InvalidParameterError("bad parameter: path cannot be empty")
    return call.variables["name"], path


def _encode(found: PathStat) -> str:
    document = {
        "name": found.name,
        "size": found.size,
        "mode": found.mode,
        "mtime": rfc3339(found.mtime),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(msgspec.json.encode(document)).decode("ascii")
