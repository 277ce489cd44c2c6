"""Images out to archives and in again: what clients see of ``save`` and ``load``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.platforms import require_platform
from orlop.errors import InvalidParameterError
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.engine.events import Events
    from orlop.engine.registry.output import Output
    from orlop.image.loading import Loader
    from orlop.image.records import Image
    from orlop.image.saving import Saver
    from orlop.image.sweeping import BlobSweeper
    from orlop.spec.digest import Digest
    from orlop.spec.reference import Reference


class ArchiveService:
    """The use cases of archives of images."""

    def __init__(self, saver: Saver, loader: Loader, *, sweeper: BlobSweeper, events: Events) -> None:
        self._sweeper = sweeper
        self._saver = saver
        self._loader = loader
        self._events = events

    def save(self, names: Sequence[str], *, platform: str = "") -> AsyncIterator[bytes]:
        """Return an archive of images. Raises NotFoundError("reference does not exist"), also for another platform."""
        if not names:
            raise InvalidParameterError("no image names given")
        chosen = self._saver.choose(names)
        for image, _ in chosen:
            require_platform(platform, image.tags[0] if image.tags else str(image.id), image.config)
        for image, _ in chosen:
            self._tell("save", image)
        return self._saver.write(chosen)

    def save_as(self, image: str, names: Sequence[Reference]) -> AsyncIterator[bytes]:
        """Return an archive of one image, by its id, under names that it need not have here. Raises NotFoundError."""
        [(found, _)] = self._saver.choose([image])
        self._tell("save", found)
        return self._saver.write([(found, tuple(names))])

    async def load(self, stream: AsyncIterator[bytes], output: Output, *, quiet: bool, platform: str = "") -> None:
        """Load an archive, or what it has for a platform. Raises InvalidParameterError and others."""
        wanted = Platform.parse(platform) if platform else None
        with self._sweeper.held():
            await self._loader.run(stream, _Told(self, output, quiet=quiet), wanted=wanted)

    def _tell(self, action: str, image: Image) -> None:
        labels = image.config.config.labels or {}
        self._events.publish("image", action, str(image.id), {**labels, "name": str(image.id)})

    def tell_loaded(self, image: Image) -> None:
        """Publish that an image was loaded."""
        self._tell("load", image)


class _Told:
    """Turns what the loader says into Docker's words."""

    def __init__(self, service: ArchiveService, output: Output, *, quiet: bool) -> None:
        self._service = service
        self._output = output
        self._quiet = quiet

    def layer(self, diff_id: Digest, current: int, total: int) -> None:
        if not self._quiet:
            self._output.update(diff_id.short, "Loading layer", current, total)

    def renamed(self, reference: Reference, before: Image) -> None:
        self._output.stream(
            f"The image {reference.familiar} already exists, renaming the old one with ID {before.id} to empty string\n"
        )

    def loaded(self, image: Image, names: tuple[Reference, ...]) -> None:
        for name in names:
            self._output.stream(f"Loaded image: {name.familiar}\n")
        if not names:
            self._output.stream(f"Loaded image ID: {image.id}\n")
        self._service.tell_loaded(image)
