"""Routes of registries: pull, push, log in, look."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.api.call import Call, Handler, Route
from orlop.api.platforms import single_platform
from orlop.api.progress import answer_with_progress
from orlop.api.responses import json_response
from orlop.engine.registry.pull import PullRequest
from orlop.engine.registry.push import PushRequest
from orlop.errors import InvalidParameterError
from orlop.registry.credentials import ANONYMOUS, Credentials, decode_header, parse_credentials
from orlop.spec.digest import Digest
from orlop.spec.platform import Platform
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import web

    from orlop.engine.images import ImageService
    from orlop.engine.registry.output import Output
    from orlop.engine.registry.service import RegistryService
    from orlop.image.importer import ImportRequest

_HEADER = "X-Registry-Auth"


def routes(registry: RegistryService) -> list[Route]:
    """Return the routes."""

    async def log_in(call: Call) -> web.Response:
        credentials = parse_credentials(await call.read(64 << 10))
        token = await registry.log_in(credentials)
        return json_response({"IdentityToken": token, "Status": "Login Succeeded"})

    async def push(call: Call) -> web.StreamResponse:
        reference = parse_reference(call.variables["name"])
        if reference.digest is not None:
            raise InvalidParameterError("cannot push a digest reference")
        if call.text("tag"):
            reference = reference.with_tag(call.text("tag"))
        request = PushRequest(reference, _credentials(call), single_platform(call))

        async def work(output: Output) -> None:
            await registry.push(request, output)

        return await answer_with_progress(call, work)

    async def search(call: Call) -> web.Response:
        limit = call.integer("limit", 0) or 0
        found = await registry.search(call.text("term"), limit, filters=call.filters(), credentials=_credentials(call))
        return json_response(
            [
                {
                    "star_count": one.stars,
                    "is_official": one.official,
                    "name": one.name,
                    "is_automated": False,
                    "description": one.description,
                }
                for one in found
            ]
        )

    async def distribution(call: Call) -> web.Response:
        reference = parse_reference(call.variables["name"]).with_default_tag()
        found = await registry.inspect(reference, _credentials(call))
        descriptor = {"mediaType": found.media_type, "digest": str(found.digest), "size": found.size}
        return json_response({"Descriptor": descriptor, "Platforms": [_platform(item) for item in found.platforms]})

    return [
        Route("POST", "/auth", log_in),
        Route("GET", "/images/search", search),
        Route("POST", "/images/{name:.*}/push", push),
        Route("GET", "/distribution/{name:.*}/json", distribution, since=(1, 30)),
    ]


def pull_handler(registry: RegistryService) -> Handler:
    """Return what answers ``POST /images/create?fromImage=``."""

    async def pull(call: Call) -> web.StreamResponse:
        request = PullRequest(_pulled(call), call.text("platform").strip(), _credentials(call))
        if request.platform:
            Platform.parse(request.platform)

        async def work(output: Output) -> None:
            await registry.pull(request, output)

        return await answer_with_progress(call, work)

    return pull


def import_handler(
    registry: RegistryService, images: ImageService
) -> Callable[[Call, ImportRequest], Awaitable[web.StreamResponse]]:
    """Return what imports the file behind the request's source, a URL."""

    async def answer(call: Call, request: ImportRequest) -> web.StreamResponse:
        url = request.source if "://" in request.source else f"http://{request.source}"

        async def work(output: Output) -> None:
            async with registry.open_url(url) as file:
                output.message(f"Downloading from {url}")

                async def pieces() -> AsyncIterator[bytes]:
                    done = 0
                    async for piece in file.pieces():
                        done += len(piece)
                        output.update("", "Importing", done, max(done, file.size))
                        yield piece

                image = await images.import_archive(request, pieces())
            output.message(str(image.id))

        return await answer_with_progress(call, work)

    return answer


def _pulled(call: Call) -> Reference:
    reference = parse_reference(call.text("fromImage"))
    tag = call.text("tag")
    if not tag:
        return reference
    if ":" in tag:
        return reference.with_digest(Digest.parse(tag.rpartition("@")[2]))
    return reference.with_tag(tag)


def _credentials(call: Call) -> Credentials:
    """Return the user's credentials; as dockerd does, malformed ones are none."""
    try:
        return replace(decode_header(call.request.headers.get(_HEADER, "")), server="")
    except InvalidParameterError:
        return ANONYMOUS


def _platform(platform: Platform) -> dict[str, str]:
    document = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    return document
