"""What becomes of a built image: names in the engine, or files for the client.

Source: github.com/moby/buildkit, ``exporter``; github.com/moby/moby, ``builder/builder-next/exporter``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.buildkit.control_messages import Exporter
from orlop.errors import UnsupportedError
from orlop.image.importer import parse_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.api.buildkit.control_messages import SolveRequest
    from orlop.api.buildkit.jobs import Job
    from orlop.engine.images import ImageService

_IMAGE = frozenset(("moby", "image"))


def read_exporters(request: SolveRequest) -> Sequence[Exporter]:
    """Return what is wanted. Raises UnsupportedError: something else than we have."""
    exporters = request.exporters
    if not exporters and request.exporter:
        exporters = [Exporter(type=request.exporter, attributes=request.exporter_attributes)]
    for exporter in exporters:
        if exporter.type not in _IMAGE:
            raise UnsupportedError(f"exporter is not supported: {exporter.type[:80]}")
    return exporters


async def export(image: str, exporters: Sequence[Exporter], job: Job, images: ImageService) -> Mapping[str, str]:
    """Do what is wanted with an image, and return what programs read of it.

    Args:
        image: its id.
        exporters: what is wanted.
        job: is told of it.
        images: of the engine.
    """
    answer: dict[str, str] = {}
    for exporter in exporters:
        answer |= _name(image, exporter, job, images)
    return answer


def _name(image: str, exporter: Exporter, job: Job, images: ImageService) -> Mapping[str, str]:
    """Give an image its names."""
    step = job.log.step("exporting to image").start()
    step.part("exporting layers", over=True)
    step.part(f"writing image {image}", over=True)
    names = [
        tag for text in exporter.attributes.get("name", "").split(",") if (tag := parse_name(text, "")) is not None
    ]
    for name in names:
        images.tag(image, str(name), "")
        step.part(f"naming to {name}", over=True)
    step.complete()
    answer = {"containerimage.digest": image, "containerimage.config.digest": image}
    return answer | ({"image.name": ",".join(str(name) for name in names)} if names else {})
