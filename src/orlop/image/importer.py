"""``docker import``: a tar of a root file system becomes an image of one layer."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, OrlopError
from orlop.image.changes import apply_changes
from orlop.image.unpacking import LayerUnpacker
from orlop.spec.image import ContainerDefaults, History, ImageConfig
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.image.unpacking import LayerSink, TreeOps

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What the user asked for.

    Attributes:
        repository: with or without tag; empty for an image without a name.
        tag: empty for the one in ``repository``, or latest.
        changes: Dockerfile instructions (``--change``).
        message: the image's comment; Docker's "Imported from -" when empty.
        source: what the message names.
        platform: ``os[/architecture[/variant]]``; empty for this machine's.
    """

    repository: str = ""
    tag: str = ""
    changes: tuple[str, ...] = ()
    message: str = ""
    source: str = "-"
    platform: str = ""


class Importer:
    """Owns no state; ``version`` is what images record as the engine that made them."""

    def __init__(
        self,
        images: ImageStore,
        layers: LayerSink,
        ops: TreeOps,
        *,
        unpacker: LayerUnpacker | None = None,
        version: str = "",
    ) -> None:
        self._images = images
        self._layers = layers
        self._ops = ops
        self._unpacker = unpacker or LayerUnpacker(layers, ops)
        self._version = version

    async def run(self, request: ImportRequest, stream: AsyncIterator[bytes]) -> Image:
        """Import the stream. The request is checked before its first byte is read.

        Raises:
            InvalidParameterError: bad name, change, platform or archive ("unexpected EOF").
            SystemFailureError: no space left on device and the like.
        """
        reference = parse_name(request.repository, request.tag)
        defaults = apply_changes(ContainerDefaults(), request.changes)
        platform = _parse_platform(request.platform)
        chain, diff_id = await self._unpacker.run(stream)
        created = now()
        message = request.message or f"Imported from {request.source}"
        config = ImageConfig(
            architecture=platform[1],
            os=platform[0],
            variant=platform[2],
            config=defaults,
            diff_ids=(diff_id,),
            history=(History(created=created, comment=message),),
            created=created,
            comment=message,
            docker_version=self._version,
        )
        try:
            image, tombstones = await self._images.create(config.render(), chain, reference)
        except BaseException:
            await self._bury(self._layers.release(chain))
            raise
        await self._bury(tombstones)
        return image

    async def _bury(self, tombstones: Sequence[str]) -> None:
        for path in tombstones:
            with contextlib.suppress(OrlopError):  # what is left is removed at the next start
                await self._ops.remove_tree(path)


def parse_name(repository: str, tag: str) -> Reference | None:
    """Read the two parts in which the API carries a new image's name; None for no name.

    Raises:
        InvalidParameterError: with Docker's words.
    """
    if not repository:
        return None
    reference = parse_reference(repository)
    if reference.digest is not None:
        raise InvalidParameterError("cannot import digest reference")
    return reference.with_tag(tag) if tag else reference.with_default_tag()


def now() -> str:
    """Return the time as Docker writes it into images: RFC 3339, UTC, nanoseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _parse_platform(text: str) -> tuple[str, str, str]:
    machine = os.uname().machine
    system, _, rest = text.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    if system not in ("", "linux"):
        raise InvalidParameterError("operating system is not supported")
    return "linux", architecture or _ARCHITECTURES.get(machine, machine), variant
