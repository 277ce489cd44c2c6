"""Routes of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.call import Call, Handler, Route
from orlop.api.moments import until_of
from orlop.api.platforms import single_platform
from orlop.api.responses import JsonStream, empty, json_response
from orlop.errors import UnsupportedError
from orlop.image.importer import ImportRequest
from orlop.spec.image import render_defaults
from orlop.spec.timestamps import rfc3339_nano, unix_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web

    from orlop.engine.disk_usage import DiskUsage
    from orlop.engine.images import ImageService
    from orlop.image.records import HistoryEntry, Image
    from orlop.spec.digest import Digest

# Fields of containers that Docker showed in images' Config before API 1.50.
_CONTAINER_FIELDS: dict[str, object] = {
    "Hostname": "",
    "Domainname": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Image": "",
}


def routes(
    images: ImageService,
    *,
    disk: DiskUsage,
    graph: Callable[[Digest | None], dict[str, object]],
    pull: Handler,
    fetch: Callable[[Call, ImportRequest], Awaitable[web.StreamResponse]],
) -> list[Route]:
    """Return the routes.

    Args:
        images: the use cases.
        disk: knows what images share.
        graph: returns the document ``GraphDriver`` of a top layer.
        pull: answers ``POST /images/create`` with ``fromImage``.
        fetch: answers it with a URL as ``fromSrc``.
    """

    async def listing(call: Call) -> web.Response:
        filters = call.filters()
        if call.has("filter"):
            filters.setdefault("reference", []).append(call.text("filter"))
        found = images.select(filters, every=call.boolean("all"), until=until_of(filters))
        shared: dict[Digest, int] = {}
        if call.boolean("shared-size"):
            shared = {image.id: size for image, _, size in disk.images()[1]}
        return json_response([summary(image, version=call.version, shared=shared.get(image.id, -1)) for image in found])

    async def inspect(call: Call) -> web.Response:
        if call.boolean("manifests"):
            raise UnsupportedError("manifests of images are not kept")
        image = images.resolve(call.variables["name"], platform=single_platform(call))
        return json_response(details(image, driver=graph(image.chain), version=call.version))

    async def history(call: Call) -> web.Response:
        return json_response(
            [_step(entry) for entry in images.history(call.variables["name"], platform=single_platform(call))]
        )

    async def create(call: Call) -> web.StreamResponse:
        if call.text("fromImage"):
            return await pull(call)
        source = call.text("fromSrc")
        request = ImportRequest(
            repository=call.text("repo"),
            tag=call.text("tag"),
            changes=tuple(call.texts("changes")),
            message=call.text("message"),
            platform=call.text("platform"),
            source=source,
        )
        if source != "-":
            return await fetch(call, request)
        async with JsonStream(call) as stream:
            image = await images.import_archive(request, call.chunks())
            await stream.send({"status": str(image.id)})
        return stream.response

    async def tag(call: Call) -> web.Response:
        images.tag(call.variables["name"], call.text("repo"), call.text("tag"))
        return empty(201)

    async def remove(call: Call) -> web.Response:
        removal = images.remove(
            call.variables["name"],
            platform=single_platform(call, "platforms"),
            force=call.boolean("force"),
            prune_parents=not call.boolean("noprune"),
        )
        return json_response([{kind: text} for kind, text in removal.records])

    async def prune(call: Call) -> web.Response:
        filters = call.filters()
        removal = images.prune(filters, until=until_of(filters))
        records = [{kind: text} for kind, text in removal.records]
        return json_response({"ImagesDeleted": records or None, "SpaceReclaimed": removal.reclaimed})

    return [
        Route("GET", "/images/json", listing),
        Route("POST", "/images/create", create),
        Route("POST", "/images/prune", prune),
        Route("GET", "/images/{name:.*}/json", inspect),
        Route("GET", "/images/{name:.*}/history", history),
        Route("POST", "/images/{name:.*}/tag", tag),
        Route("DELETE", "/images/{name:.*}", remove),
    ]


def summary(image: Image, *, version: tuple[int, int], containers: int = -1, shared: int = -1) -> dict[str, object]:
    """Return the document of one image in ``/images/json``."""
    tags, digests = list(image.tags), list(image.repo_digests)
    if version < (1, 43) and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    document: dict[str, object] = {
        "Containers": containers,
        "Created": unix_seconds(image.config.created),
        "Id": str(image.id),
        "Labels": image.config.config.labels,
        "ParentId": str(image.parent) if image.parent else "",
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": shared,
        "Size": image.size,
    }
    if version < (1, 44):
        document["VirtualSize"] = image.size
    return document


def details(image: Image, *, driver: Mapping[str, object], version: tuple[int, int]) -> dict[str, object]:
    """Return the document of ``/images/{name}/json``."""
    config = image.config
    defaults: dict[str, object] = {**render_defaults(config.config)}
    if version < (1, 50):
        defaults = {**_CONTAINER_FIELDS, **defaults}
    document: dict[str, object] = {
        "Id": str(image.id),
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": str(image.parent) if image.parent else "",
        "Comment": config.comment,
        "Created": config.created,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": defaults,
        "Architecture": config.architecture,
        **({"Variant": config.variant} if config.variant else {}),
        "Os": config.os,
        **({"OsVersion": config.os_version} if config.os_version else {}),
        "Size": image.size,
        "GraphDriver": driver,
        "RootFS": {"Type": "layers", "Layers": [str(diff_id) for diff_id in config.diff_ids]},
        "Metadata": {"LastTagTime": rfc3339_nano(image.last_tagged)},
    }
    if version < (1, 44):
        document["VirtualSize"] = image.size
    if version < (1, 45):  # Compose 1 looks for volumes there
        document["Container"], document["ContainerConfig"] = config.container, defaults
    return document


def _step(entry: HistoryEntry) -> dict[str, object]:
    return {
        "Comment": entry.step.comment,
        "Created": unix_seconds(entry.step.created),
        "CreatedBy": entry.step.created_by,
        "Id": entry.id,
        "Size": entry.size,
        "Tags": list(entry.tags) or None,
    }
