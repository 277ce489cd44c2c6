"""Images: what can be done with them, and what is told about it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.engine.platforms import require_platform
from orlop.errors import InvalidParameterError
from orlop.image.filters import PRUNE_FILTERS, boolean, check_names, filter_images, matches_labels
from orlop.image.importer import ImportRequest, parse_name
from orlop.image.removal import prune_images, remove_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from orlop.engine.events import Events
    from orlop.engine.removals import Removals
    from orlop.image.importer import Importer
    from orlop.image.records import HistoryEntry, Image, ImageUser, Removal
    from orlop.image.store import ImageStore
    from orlop.image.sweeping import BlobSweeper


class ImageService:
    """The use cases of images.

    Args:
        store: images and names.
        importer: the way in.
        removals: gets the trees of deleted layers.
        events: is told what happened.
        users: returns all containers with their image.

    Attributes:
        sweeper: removes blobs without images; None keeps them.
    """

    def __init__(
        self,
        store: ImageStore,
        importer: Importer,
        *,
        removals: Removals,
        events: Events,
        users: Callable[[], Sequence[ImageUser]],
    ) -> None:
        self.store = store
        self._importer = importer
        self._removals = removals
        self._events = events
        self._users = users
        self.sweeper: BlobSweeper | None = None

    def resolve(self, name: str, *, platform: str = "") -> Image:
        """Return the image of this name. Raises NotFoundError ("No such image: x:latest"), also of another platform."""
        if not name:
            raise InvalidParameterError("image name cannot be empty")
        image = self.store.get(name)
        require_platform(platform, name, image.config)
        return image

    def count(self) -> int:
        """Return how many images there are."""
        return len(self.store.images())

    def select(self, filters: Mapping[str, Sequence[str]], *, every: bool, until: str | None = None) -> Sequence[Image]:
        """Return the images that ``docker images`` shows. Raises InvalidParameterError, NotFoundError."""
        return filter_images(self.store, filters, every=every, until=until)

    def history(self, name: str, *, platform: str = "") -> Sequence[HistoryEntry]:
        """Return the steps that made an image, newest first."""
        return self.store.history(self.resolve(name, platform=platform))

    async def import_archive(self, request: ImportRequest, stream: AsyncIterator[bytes]) -> Image:
        """Make an image of a tar stream."""
        image = await self._importer.run(request, stream)
        reference = parse_name(request.repository, request.tag)
        if reference is not None:
            self._tell("tag", image, reference.familiar)
        self._tell("import", image, str(image.id))
        return image

    def tag(self, name: str, repository: str, tag: str) -> None:
        """Give an image another name."""
        image = self.resolve(name)
        reference = parse_name(repository, tag)
        if reference is None:
            raise InvalidParameterError("invalid reference format")
        if reference.familiar_name == "sha256":
            raise InvalidParameterError("refusing to create an ambiguous tag using digest algorithm as name")
        self.store.tag(image.id, reference)
        self._tell("tag", image, reference.familiar)

    def remove(self, name: str, *, force: bool, prune_parents: bool, platform: str = "") -> Removal:
        """Remove a name or an image. Raises ConflictError in Docker's words."""
        image = self.resolve(name, platform=platform)
        removal = remove_image(self.store, name, self._users(), force=force, prune_parents=prune_parents)
        self._finish(removal, image)
        return removal

    def prune(self, filters: Mapping[str, Sequence[str]], *, until: str | None = None) -> Removal:
        """Remove images without names (``dangling=false``: all) that no container uses."""
        check_names(filters, PRUNE_FILTERS)
        dangling = boolean(filters, "dangling", default=True)
        chosen = [
            image
            for image in self.store.images()
            if (not dangling or not image.references)
            and matches_labels(image.config.config.labels, filters.get("label", ()))
            and not any(matches_labels(image.config.config.labels, (label,)) for label in filters.get("label!", ()))
            and (until is None or image.config.created < until)
        ]
        removal = prune_images(self.store, chosen, self._users())
        if self.sweeper is not None and not set(filters) - {"dangling"}:
            # What interrupted pulls left is of no image either.
            removal = replace(removal, reclaimed=removal.reclaimed + self.sweeper.sweep(0.0))
        self._finish(removal, None)
        self._events.publish("image", "prune", "", {"reclaimed": str(removal.reclaimed)})
        return removal

    def discard(self, images: Iterable[Image]) -> int:
        """Remove those of these images that have no name and nobody needs; returns the bytes reclaimed."""
        nameless = (image for image in images if not image.references)
        removal = prune_images(self.store, nameless, self._users(), prune_parents=False)
        self._finish(removal, None)
        return removal.reclaimed

    def _finish(self, removal: Removal, image: Image | None) -> None:
        for kind, text in removal.records:
            labels = dict(image.config.config.labels or {}) if image is not None else {}
            if kind == "Deleted" and text not in removal.images:
                continue  # a layer
            if kind == "Deleted":
                self._events.publish("image", "delete", text, {**labels, "name": text})
            elif image is not None:
                self._events.publish("image", "untag", str(image.id), {**labels, "name": str(image.id)})
        self._removals.bury(removal.tombstones)

    def _tell(self, action: str, image: Image, name: str) -> None:
        self._events.publish("image", action, str(image.id), {**(image.config.config.labels or {}), "name": name})
