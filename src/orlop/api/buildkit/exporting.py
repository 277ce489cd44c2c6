"""What becomes of a built image: names in the engine, or files for the client.

==============  ======================================================================  ====================
exporter        what the client gets                                                    method of its session
==============  ======================================================================  ====================
moby, image     nothing: the image has its names here                                   none
local           the image's files, as a directory                                       ``FileSend/DiffCopy``
tar             the same, as an archive                                                 likewise
oci, docker     the image as an archive that is both, under names that it has only there  likewise
==============  ======================================================================  ====================

Source: github.com/moby/buildkit, ``exporter``; github.com/moby/moby, ``builder/builder-next/exporter``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.buildkit.client_session import ClientSession
from orlop.api.buildkit.control_messages import Exporter
from orlop.errors import UnsupportedError
from orlop.image.importer import parse_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from orlop.api.buildkit.control_messages import SolveRequest
    from orlop.api.buildkit.jobs import Job
    from orlop.engine.archives import ArchiveService
    from orlop.engine.images import ImageService
    from orlop.spec.reference import Reference

_IMAGE = frozenset(("moby", "image"))
_ARCHIVES = frozenset(("oci", "docker"))
_KINDS = _IMAGE | _ARCHIVES | {"local", "tar"}
_FALSE = frozenset(("", "0", "f", "false"))
# What may be said of an output: the values that mean what is done anyway; None for any.
_SAID: Mapping[str, Mapping[str, frozenset[str] | None]] = {
    "local": {"platform-split": _FALSE},
    "tar": {"platform-split": _FALSE},
    "oci": {"name": None, "tar": frozenset(("1", "t", "true"))},
    "docker": {"name": None, "tar": frozenset(("1", "t", "true"))},
}


def read_exporters(request: SolveRequest) -> Sequence[Exporter]:
    """Return what is wanted. Raises UnsupportedError: something else than we have."""
    exporters = request.exporters
    if not exporters and request.exporter:
        exporters = [Exporter(type=request.exporter, attributes=request.exporter_attributes)]
    for exporter in exporters:
        if exporter.type not in _KINDS:
            raise UnsupportedError(f"exporter is not supported: {exporter.type[:80]}")
        for name, value in exporter.attributes.items() if exporter.type in _SAID else ():
            meant = _SAID[exporter.type].get(name, frozenset[str]())
            if meant is not None and value.lower() not in meant:
                text = f"{name}={value}"
                raise UnsupportedError(f"not supported for output {exporter.type}: {text[:200]}")
    return exporters


class Exporting:
    """Brings images where they are wanted.

    Args:
        images: of the engine.
        archives: of them.
    """

    def __init__(self, images: ImageService, archives: ArchiveService) -> None:
        self._images = images
        self._archives = archives

    async def export(self, image: str, exporters: Sequence[Exporter], job: Job) -> Mapping[str, str]:
        """Do what is wanted with an image, and return what programs read of it.

        Args:
            image: its id.
            exporters: what is wanted.
            job: is told of it, and has the client.

        Raises:
            OrlopError: the client does not take it, or has gone.
        """
        answer: dict[str, str] = {}
        for number, exporter in enumerate(exporters):
            names = _names(exporter)
            if exporter.type in _IMAGE:
                self._name(image, names, job)
            else:
                await self._send(image, exporter, job, exporter.id or str(number))
            if exporter.type in _IMAGE | _ARCHIVES:
                answer |= {"containerimage.digest": image, "containerimage.config.digest": image}
                answer |= {"image.name": ",".join(str(name) for name in names)} if names else {}
        return answer

    def _name(self, image: str, names: Sequence[Reference], job: Job) -> None:
        """Give an image its names."""
        step = job.log.step("exporting to image").start()
        step.part("exporting layers", over=True)
        step.part(f"writing image {image}", over=True)
        for name in names:
            self._images.tag(image, str(name), "")
            step.part(f"naming to {name}", over=True)
        step.complete()

    async def _send(self, image: str, exporter: Exporter, job: Job, number: str) -> None:
        """Send an image, or its files, to the client."""
        kind = {"local": "client directory", "tar": "client tarball"}.get(
            exporter.type, f"{exporter.type} image format"
        )
        with job.log.step(f"exporting to {kind}"):
            client = ClientSession((await job.session()).channel, job.builds.sessions.files)
            if exporter.type == "local":
                async with job.builds.unpacked(image) as directory:
                    await client.send_directory(directory, exporter=number)
            else:
                await client.send_archive(self._archive(image, exporter, job), exporter=number)

    def _archive(self, image: str, exporter: Exporter, job: Job) -> AsyncIterator[bytes]:
        if exporter.type == "tar":
            return job.builds.tree(image)
        return self._archives.save_as(image, _names(exporter))


def _names(exporter: Exporter) -> list[Reference]:
    texts = exporter.attributes.get("name", "").split(",")
    return [name for text in texts if (name := parse_name(text, "")) is not None]
