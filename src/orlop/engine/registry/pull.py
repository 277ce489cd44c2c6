"""``docker pull``: from a name to an image that is here.

::

    HEAD manifest ──▶ known here under this digest: up to date
    GET manifest  ──▶ index: choose by platform, three levels at most ──▶ manifest ──▶ config ──▶ layers ──▶ names

The digest that a name is given (``RepoDigests``) is that of what the tag names, index or manifest, as with Docker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.engine.platforms import require_platform
from orlop.engine.registry.layers import LayerPlan
from orlop.errors import InvalidParameterError, NotFoundError
from orlop.registry.credentials import ANONYMOUS, Credentials
from orlop.registry.failures import RegistryError
from orlop.spec.digest import Digest
from orlop.spec.image import SIZE_LIMIT, ImageConfig
from orlop.spec.manifest import Index, Manifest, choose, parse_document
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.engine.registry.layers import LayerFetcher
    from orlop.engine.registry.output import Output
    from orlop.engine.registry.registries import Registries
    from orlop.engine.registry.transfers import Report
    from orlop.image.kept import KeptBlobs
    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.registry.repository import Received, Repository
    from orlop.spec.manifest import Descriptor
    from orlop.spec.reference import Reference

_DEPTH = 3


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What a client asked for.

    Attributes:
        reference: with a tag or digest, or without both for all tags.
        platform: ``os/architecture/variant``; empty for this machine's.
        credentials: of the user.
    """

    reference: Reference
    platform: str = ""
    credentials: Credentials = ANONYMOUS


class Puller:
    """Owns no state."""

    def __init__(
        self,
        registries: Registries,
        images: ImageStore,
        kept: KeptBlobs,
        fetcher: LayerFetcher,
        bury: Callable[[Iterable[str]], None],
    ) -> None:
        self._registries = registries
        self._images = images
        self._kept = kept
        self._fetcher = fetcher
        self._bury = bury

    async def run(self, request: PullRequest, output: Output) -> list[Image]:
        """Pull, and tell the output; returns the images.

        Raises:
            NotFoundError: no such repository, tag or platform, in Docker's words.
            RegistryError: anything else that the registry did.
            InvalidParameterError: what it sent cannot be an image.
        """
        wanted = Platform.parse(request.platform) if request.platform else None
        reference = request.reference
        work = _Pull(wanted, output)

        async def pull(repository: Repository) -> list[Image]:
            if reference.tag is not None or reference.digest is not None:
                return [await self._pull_one(repository, reference, work)]
            return [await self._pull_one(repository, reference.with_tag(tag), work) for tag in await repository.tags()]

        try:
            images = await self._registries.pull(reference, request.credentials, pull)
        except RegistryError as error:
            raise translate(error, reference) from None
        shown = reference.familiar
        state = "Downloaded newer image for" if work.changed else "Image is up to date for"
        output.message(f"Status: {state} {shown}")
        for image in images:
            # A manifest that is not in a list is taken as it is; the user is told all the same, as by dockerd.
            require_platform(request.platform, shown, image.config)
        return images

    async def _pull_one(self, repository: Repository, reference: Reference, work: _Pull) -> Image:
        """Pull one tag or digest."""
        name = reference.digest or reference.tag or ""
        digest = reference.digest or await repository.resolve(str(name))
        present = None if digest is None else self._present(reference.with_digest(digest), work.wanted)
        if present is not None and digest is not None and self._kept.is_complete(present.config.diff_ids):
            work.output.message(f"Pulling from {reference.path}", name=str(name))
            self._name(present, reference, digest, work)
            return present
        received = await repository.manifest(digest or str(name))
        work.output.message(f"Pulling from {reference.path}", name=str(name))
        document, found = await self._select(repository, received, work.wanted or Platform.host())
        image = await self._make(repository, reference, document, work)
        self._kept.add_manifest(image.id, found.data, document.media_type)
        self._name(image, reference, received.digest, work)
        return image

    def _present(self, reference: Reference, wanted: Platform | None) -> Image | None:
        """Return the image that has this digest in this repository, if it is the one that is wanted.

        The digest may be a list's, of which another platform was pulled before.
        """
        image = self._images.find(reference)
        if image is None:
            return None
        actual = Platform.of(image.config.os, image.config.architecture, image.config.variant)
        return image if actual == (wanted or Platform.host()) else None

    async def _select(self, repository: Repository, received: Received, wanted: Platform) -> tuple[Manifest, Received]:
        """Follow indexes to the manifest of a platform."""
        expected = received.media_type
        for _ in range(_DEPTH):
            document = parse_document(received.data, expected)
            if isinstance(document, Manifest):
                return document, received
            entry = choose(document, wanted)
            received = await repository.manifest(entry.digest)
            if len(received.data) != entry.size:
                raise InvalidParameterError(f"manifest {entry.digest} is not of the size that its list says")
            expected = entry.media_type
        document = parse_document(received.data, expected)
        if isinstance(document, Index):
            raise InvalidParameterError(f"manifest lists are nested more than {_DEPTH - 1} deep")
        return document, received

    async def _make(self, repository: Repository, reference: Reference, manifest: Manifest, work: _Pull) -> Image:
        data = await fetch_config(repository, manifest.config)
        config = ImageConfig.parse(data)
        if config.os != "linux":
            raise InvalidParameterError(f'image operating system "{config.os[:50]}" cannot be used on this platform')
        if len(config.diff_ids) != len(manifest.layers):
            raise InvalidParameterError("layers from manifest don't match image configuration")
        image_id = Digest.of(data)
        for blob in manifest.layers:
            if self._kept.content.has(blob.digest):
                self._kept.add_source(blob.digest, reference)
        plan = LayerPlan(repository, reference, manifest.layers, config.diff_ids)
        try:
            image = self._images.get_by_id(image_id.hex)
        except NotFoundError:
            work.changed = True
        else:
            await self._fetcher.complete(plan, work.tell)
            return image
        chain = await self._fetcher.fetch(plan, work.tell)
        try:
            image, tombstones = await self._images.create(data, chain)
        except BaseException:
            if chain is not None:
                self._bury(self._fetcher.layers.release(chain))
            raise
        self._bury(tombstones)
        return image

    def _name(self, image: Image, reference: Reference, digest: Digest, work: _Pull) -> None:
        if reference.digest is None and image.id != self._named(reference):
            self._images.tag(image.id, reference)
            work.changed = True
        by_digest = reference.with_digest(digest)
        if self._named(by_digest) != image.id:
            self._images.tag(image.id, by_digest)
            work.changed = work.changed or reference.digest is not None
        work.output.message(f"Digest: {digest}")

    def _named(self, reference: Reference) -> Digest | None:
        image = self._images.find(reference)
        return None if image is None else image.id


class _Pull:
    """One request being worked on; ``changed`` when something came that was not here."""

    def __init__(self, wanted: Platform | None, output: Output) -> None:
        self.wanted = wanted
        self.output = output
        self.changed = False

    def tell(self, name: str) -> Report:
        """Return who is told of a layer."""

        def told(status: str, current: int = 0, total: int = 0) -> None:
            self.output.update(name, status, current, total)

        return told


async def fetch_config(repository: Repository, descriptor: Descriptor) -> bytes:
    """Return an image's configuration, verified.

    Raises:
        RegistryError: the registry refused.
        InvalidParameterError: too large, or other bytes.
    """
    if descriptor.size > SIZE_LIMIT:
        raise InvalidParameterError(f"image config is larger than {SIZE_LIMIT} bytes: {descriptor.size}")
    data = await repository.document(descriptor.digest, descriptor.size)
    if Digest.of(data) != descriptor.digest:
        raise InvalidParameterError(f"image config verification failed for digest {descriptor.digest}")
    return data


def translate(error: RegistryError, reference: Reference) -> Exception:
    """Turn a registry's refusal into what ``docker pull`` says of it."""
    if error.code == "DENIED":
        return NotFoundError(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require"
            f" 'docker login': {error}"
        )
    if error.code in ("MANIFEST_UNKNOWN", "NOT_FOUND") or (error.status == 404 and not error.code):
        words = str(error) if error.code else "manifest unknown: manifest unknown"
        return NotFoundError(f"manifest for {reference.familiar} not found: {words}")
    if error.code == "NAME_UNKNOWN":
        return NotFoundError(f"repository {reference.familiar_name} not found: {error}")
    return error
