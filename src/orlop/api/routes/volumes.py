"""Routes of volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.api.call import Call, Route
from orlop.api.responses import empty, json_response
from orlop.errors import NotFoundError, UnavailableError, UnsupportedError
from orlop.spec.timestamps import rfc3339_seconds

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.engine.volumes import VolumeService
    from orlop.volumes.store import Volume


class VolumeCreate(msgspec.Struct, rename="pascal"):
    """``POST /volumes/create``."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, object] | None = None


def routes(volumes: VolumeService) -> list[Route]:
    """Return the routes."""

    async def listing(call: Call) -> web.Response:
        found = [document(volume) for volume in volumes.select(call.filters())]
        return json_response({"Volumes": found, "Warnings": None})

    async def create(call: Call) -> web.Response:
        wish = await call.body(VolumeCreate, optional=True)
        if wish.cluster_volume_spec is not None:
            raise UnsupportedError("cluster volumes are not supported")
        volume = volumes.create(
            wish.name,
            driver=wish.driver or "local",
            options=wish.driver_opts,
            labels=wish.labels,
        )
        return json_response(document(volume), status=201)

    async def inspect(call: Call) -> web.Response:
        return json_response(document(volumes.get(call.variables["name"])))

    async def remove(call: Call) -> web.Response:
        force = call.boolean("force")
        try:
            volumes.remove(call.variables["name"], force=force)
        except NotFoundError:
            if not force:
                raise
        return empty()

    async def prune(call: Call) -> web.Response:
        names, reclaimed = await volumes.prune(call.filters(), every=call.version < (1, 42))
        return json_response({"VolumesDeleted": names or None, "SpaceReclaimed": reclaimed})

    async def update(_call: Call) -> web.Response:
        raise UnavailableError("volume update only valid for cluster volumes, but swarm is unavailable")

    return [
        Route("GET", "/volumes", listing),
        Route("POST", "/volumes/create", create),
        Route("POST", "/volumes/prune", prune),
        Route("GET", "/volumes/{name}", inspect),
        Route("PUT", "/volumes/{name}", update, since=(1, 42)),
        Route("DELETE", "/volumes/{name}", remove),
    ]


def document(volume: Volume) -> dict[str, object]:
    """Return the API's document of a volume."""
    return {
        "CreatedAt": rfc3339_seconds(volume.created),
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
    }
