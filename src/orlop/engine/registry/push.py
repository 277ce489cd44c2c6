"""``docker push``: every layer there, in whatever way costs least, then the configuration, then the manifest.

::

    layer: HEAD in the repository ──▶ "Layer already exists"
           mount from another repository of the registry that was seen to have it ──▶ "Mounted from"
           upload of the kept blob; without one, of a blob made of the layer's tar ──▶ "Pushed"

An image that was pulled is pushed with the manifest that it was pulled with, byte for byte, as long as the registry
gets all its blobs; any other gets a schema 2 manifest, as from dockerd.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.engine.platforms import require_platform
from orlop.engine.registry.layers import gather_all
from orlop.errors import NotFoundError, OrlopError
from orlop.image.compressing import compress
from orlop.image.feed import in_thread
from orlop.registry.credentials import ANONYMOUS, Credentials
from orlop.registry.failures import RegistryError
from orlop.registry.upload import upload
from orlop.spec.image import SIZE_LIMIT
from orlop.spec.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_document,
    render_manifest,
    retyped,
)
from orlop.spec.manifest import SIZE_LIMIT as MANIFEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from orlop.engine.registry.output import Output
    from orlop.engine.registry.registries import Registries
    from orlop.image.kept import KeptBlobs
    from orlop.image.layer_tar import LayerTars
    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.registry.repository import Repository
    from orlop.spec.digest import Digest
    from orlop.spec.reference import Reference

_CHUNK = 1 << 19
_SOURCES = 3


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What a client asked for: a repository, one tag or all of them, the user's credentials, and a platform or ""."""

    reference: Reference
    credentials: Credentials = ANONYMOUS
    platform: str = ""


class Pusher:
    """Owns no state but the slots for uploads.

    Args:
        registries: where to.
        images: what.
        kept: manifests and blobs.
        tars: layers whose blob is not kept.
        concurrent: how many blobs are uploaded at once.
    """

    def __init__(
        self, registries: Registries, images: ImageStore, kept: KeptBlobs, tars: LayerTars, *, concurrent: int = 5
    ) -> None:
        self._registries = registries
        self._images = images
        self._kept = kept
        self._tars = tars
        self.slots = asyncio.Semaphore(concurrent)

    async def run(self, request: PushRequest, output: Output) -> None:
        """Push. The output has begun when this raises, as with dockerd.

        Raises:
            NotFoundError: no such image, in Docker's words.
            RegistryError: the registry refused.
        """
        reference = request.reference
        output.message(f"The push refers to repository [{reference.name}]")
        chosen = self._choose(reference)
        for name, image in chosen:
            require_platform(request.platform, name.familiar, image.config)
        sources = self._mountable(chosen[0][1], reference)

        async def push(repository: Repository) -> None:
            for name, image in chosen:
                await _Push(self._images, self._kept, self._tars, self.slots, repository, name, output).run(image)

        await self._registries.push(reference, request.credentials, push, sources=sources)

    def _choose(self, reference: Reference) -> list[tuple[Reference, Image]]:
        """Return the names to push, and their images."""
        if reference.tag is not None:
            image = self._images.find(reference)
            if image is not None:
                return [(reference, image)]
        found = [
            (name, image)
            for image in self._images.images()
            for name in image.references
            if name.name == reference.name and name.digest is None
        ]
        if not found:
            raise NotFoundError(f"An image does not exist locally with the tag: {reference.familiar_name}")
        if reference.tag is not None:
            raise NotFoundError(f"tag does not exist: {reference.familiar}")
        return sorted(found, key=lambda item: item[0].tag or "")

    def _mountable(self, image: Image, reference: Reference) -> list[str]:
        """Return other repositories of the same registry that may have this image's layers."""
        found = {
            name.partition("/")[2]
            for diff_id in image.config.diff_ids
            for blob in self._kept.layers(diff_id)
            for name in self._kept.sources(blob.digest)
            if name.partition("/")[0] == reference.domain
        }
        return sorted(found - {reference.path})[:_SOURCES]


class _Push:
    """One name being pushed."""

    def __init__(
        self,
        images: ImageStore,
        kept: KeptBlobs,
        tars: LayerTars,
        slots: asyncio.Semaphore,
        repository: Repository,
        reference: Reference,
        output: Output,
    ) -> None:
        self._images = images
        self._kept = kept
        self._tars = tars
        self._slots = slots
        self._repository = repository
        self._reference = reference
        self._output = output
        self._pushed: dict[Digest, asyncio.Task[Descriptor]] = {}

    async def run(self, image: Image) -> None:
        received, manifest = self._kept_manifest(image)
        config = image.config
        wanted = manifest.layers if manifest is not None else (None,) * len(config.diff_ids)
        names = [diff_id.short for diff_id in config.diff_ids]
        for name in reversed(names):
            self._output.update(name, "Preparing")
        pushes = [
            self._layer(diff_id, chain, blob)
            for diff_id, chain, blob in zip(config.diff_ids, config.chain_ids, wanted, strict=True)
        ]
        layers = await gather_all(pushes)
        data = self._images.config_bytes(image.id)
        if manifest is not None and received is not None and _same_blobs(layers, manifest.layers):
            media_type, document = manifest.media_type, received
            descriptor = manifest.config
        else:
            # Docker's manifests have no name for zstd.
            oci = any(layer.media_type.endswith("zstd") for layer in layers)
            media_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
            descriptor = Descriptor(OCI_CONFIG if oci else DOCKER_CONFIG, image.id, len(data))
            document = render_manifest(media_type, descriptor, [retyped(layer, oci=oci) for layer in layers])
        await self._config(descriptor, data)
        tag = self._reference.tag or ""
        await self._repository.put_manifest(tag, document, media_type)
        kept = self._kept.add_manifest(image.id, document, media_type)
        self._images.tag(image.id, self._reference.with_digest(kept.digest))
        self._output.message(f"{tag}: digest: {kept.digest} size: {kept.size}")
        self._output.aux({"Tag": tag, "Digest": str(kept.digest), "Size": kept.size})

    def _kept_manifest(self, image: Image) -> tuple[bytes | None, Manifest | None]:
        """Return the manifest that the image was pulled with, if it is here and fits."""
        for descriptor in self._kept.manifests(image.id):
            try:
                data = self._kept.content.get(descriptor.digest, limit=MANIFEST_LIMIT)
                document = parse_document(data, descriptor.media_type)
            except OrlopError:
                continue  # damaged: it is made anew
            if isinstance(document, Manifest) and len(document.layers) == len(image.config.diff_ids):
                return data, document
        return None, None

    async def _config(self, descriptor: Descriptor, data: bytes) -> None:
        if len(data) > SIZE_LIMIT or await self._repository.has_blob(descriptor.digest):
            return
        await upload(self._repository, descriptor, _Memory(data), lambda _current, _total: None)

    async def _layer(self, diff_id: Digest, chain: Digest, wanted: Descriptor | None) -> Descriptor:
        """Have a layer in the repository; returns the blob that it is there. The same layer twice is done once."""
        if diff_id not in self._pushed:
            self._pushed[diff_id] = asyncio.create_task(self._push_layer(diff_id, chain, wanted))
        return await self._pushed[diff_id]

    async def _push_layer(self, diff_id: Digest, chain: Digest, wanted: Descriptor | None) -> Descriptor:
        name = diff_id.short
        if self._slots.locked():
            self._output.update(name, "Waiting")
        async with self._slots:
            known = self._kept.layers(diff_id)
            candidates = [wanted] if wanted is not None else []
            candidates.extend(blob for blob in known if blob not in candidates)
            for blob in candidates:
                if await self._repository.has_blob(blob.digest):
                    self._output.update(name, "Layer already exists")
                    self._kept.add_layer(diff_id, blob, self._reference)
                    return blob
            url: str | None = None
            for blob in candidates:
                source, url = await self._mount(blob)
                if source is not None:
                    self._output.update(name, f"Mounted from {source}")
                    self._kept.add_layer(diff_id, blob, self._reference)
                    return blob
            blob = await self._here(diff_id, chain, wanted)
            await self._upload(name, blob, url)
            self._kept.add_layer(diff_id, blob, self._reference)
            self._output.update(name, "Pushed")
            return blob

    async def _mount(self, blob: Descriptor) -> tuple[str | None, str | None]:
        """Ask for a blob of another repository; returns its name, or the URL of an upload that was begun instead."""
        url: str | None = None
        for name in self._kept.sources(blob.digest):
            domain, _, path = name.partition("/")
            if domain != self._reference.domain or path == self._reference.path:
                continue
            if url is not None:
                await self._repository.cancel_upload(url)
            try:
                url = await self._repository.mount(blob.digest, path)
            except RegistryError as error:
                if error.status in (401, 403):
                    continue  # the user may not read that one
                raise
            if url is None:
                return path, None
        return None, url

    async def _here(self, diff_id: Digest, chain: Digest, wanted: Descriptor | None) -> Descriptor:
        """Return a blob of the layer whose bytes are in the content store."""
        kept = await self._kept.find_intact(diff_id, wanted=wanted)
        if kept is not None:
            return kept
        name = diff_id.short

        def made(count: int) -> None:
            self._output.update(name, "Preparing", count, count + 1)

        blob = await compress(self._kept.content, self._tars.read(diff_id, chain), made)
        self._kept.add_layer(diff_id, blob)
        return blob

    async def _upload(self, name: str, blob: Descriptor, url: str | None) -> None:
        def pushing(current: int, total: int) -> None:
            self._output.update(name, "Pushing", current, total)

        await upload(self._repository, blob, _File(self._kept.content.path(blob.digest)), pushing, url=url)


def _same_blobs(pushed: Sequence[Descriptor], named: Sequence[Descriptor]) -> bool:
    return [layer.digest for layer in pushed] == [layer.digest for layer in named]


class _Memory:
    """Bytes that are here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, offset: int, size: int) -> AsyncIterator[bytes]:
        yield self._data[offset : offset + size]


class _File:
    """Bytes of a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def read(self, offset: int, size: int) -> AsyncIterator[bytes]:
        fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            end = offset + size
            while offset < end:
                data = await in_thread(_part(fd, min(_CHUNK, end - offset)), offset)
                if not data:
                    return
                offset += len(data)
                yield data
        finally:
            os.close(fd)


def _part(fd: int, count: int) -> Callable[[int], bytes]:
    return lambda offset: os.pread(fd, count, offset)
