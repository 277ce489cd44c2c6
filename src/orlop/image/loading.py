"""``docker load``: an archive of ``docker save`` (any age that has ``manifest.json``) or an OCI layout becomes images.

::

    receive members ──▶ manifest.json or index.json ──▶ for each image: config ──▶ layers, bottom first ──▶ image, names

Receiving and unpacking go on at the same time; a layer is unpacked while its member comes, if the archive says first
what it holds, as orlop's own do. Nothing is visible before its diff ids are verified. Compressed layers are kept
as they are, with the manifest that names them, as if they had been pulled.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orlop.errors import InvalidParameterError, NotFoundError, OrlopError
from orlop.image.archive_index import (
    INDEX,
    MANIFEST,
    ArchivedImage,
    blob_name,
    digest_of_name,
    names_of,
    parse_docker_manifest,
    parse_index,
)
from orlop.image.archive_members import Members
from orlop.image.compression import PEEK, Compression, detect
from orlop.spec.digest import Digest
from orlop.spec.image import SIZE_LIMIT, ImageConfig
from orlop.spec.manifest import INDEXES, MANIFESTS, Descriptor, Index, Manifest, choose, parse_document
from orlop.spec.manifest import SIZE_LIMIT as MANIFEST_LIMIT
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from orlop.image.growing import GrowingFile
    from orlop.image.kept import KeptBlobs
    from orlop.image.partial import PartialStore
    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.image.unpacking import LayerUnpacker
    from orlop.spec.reference import Reference

_DEPTH = 3


class LoadLayers(Protocol):
    """What loading needs of the layer store (``storage.layers.LayerStore``)."""

    def has(self, chain: Digest) -> bool:
        """Tell whether the layer is there."""
        ...

    def retain(self, chain: Digest) -> None:
        """Count one more user."""
        ...

    def release(self, chain: Digest) -> list[str]:
        """Count one user less; return tombstones."""
        ...


class LoadProgress(Protocol):
    """Who is told how it goes."""

    def layer(self, diff_id: Digest, current: int, total: int) -> None:
        """Tell how much of a layer is unpacked."""
        ...

    def renamed(self, reference: Reference, before: Image) -> None:
        """Tell that another image loses a name."""
        ...

    def loaded(self, image: Image, names: tuple[Reference, ...]) -> None:
        """Tell that an image is there."""
        ...


@dataclass(frozen=True, slots=True)
class _Manifested:
    """An OCI or schema 2 manifest of the archive."""

    data: bytes
    document: Manifest


class Loader:
    """Owns no state."""

    def __init__(
        self,
        images: ImageStore,
        layers: LoadLayers,
        kept: KeptBlobs,
        partials: PartialStore,
        unpacker: LayerUnpacker,
        bury: Callable[[Iterable[str]], None],
    ) -> None:
        self._images = images
        self._layers = layers
        self._kept = kept
        self._partials = partials
        self._unpacker = unpacker
        self._bury = bury

    async def run(
        self, stream: AsyncIterator[bytes], progress: LoadProgress, *, wanted: Platform | None = None
    ) -> None:
        """Load every image of the archive; with ``wanted`` only those of that platform.

        Raises:
            InvalidParameterError: damaged, hostile, or not an archive of images.
            NotFoundError: there is none of the platform.
            SystemFailureError: no space left on device and the like.

        Images that were told as loaded stay; the one that failed leaves nothing.
        """
        members = Members(self._partials.spool)
        receiving = asyncio.create_task(members.receive(stream))
        try:
            loaded = [
                await self._load(members, image, manifest, progress, wanted)
                for image, manifest in await self._contents(members, wanted or Platform.host())
            ]
            await receiving
            if wanted is not None and not any(loaded):
                raise NotFoundError(f"requested platform ({wanted}) not found: not found")
        except BaseException:
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await receiving
            raise
        finally:
            members.close()

    async def _contents(self, members: Members, wanted: Platform) -> list[tuple[ArchivedImage, _Manifested | None]]:
        first = await members.first_document(MANIFEST, INDEX)
        if first == MANIFEST:
            data = await members.document(MANIFEST)
            return [(image, None) for image in parse_docker_manifest(data or b"")]
        if first is None:
            raise InvalidParameterError("invalid archive: does not contain a manifest.json")
        index = parse_index(await members.document(INDEX) or b"")
        found: list[tuple[ArchivedImage, _Manifested | None]] = []
        merged: dict[Digest, int] = {}
        for entry in index.manifests:
            manifest = await self._manifest(members, entry, wanted)
            document = manifest.document
            names = names_of(entry)
            if document.config.digest in merged:
                position = merged[document.config.digest]
                before = found[position][0]
                found[position] = (ArchivedImage(before.config, before.layers, (*before.names, *names)), manifest)
                continue
            merged[document.config.digest] = len(found)
            layers = tuple(blob_name(layer.digest) for layer in document.layers)
            found.append((ArchivedImage(blob_name(document.config.digest), layers, names), manifest))
        return found

    async def _manifest(self, members: Members, entry: Descriptor, wanted: Platform) -> _Manifested:
        """Follow an index's entry to a manifest for a platform."""
        for _ in range(_DEPTH):
            data = await members.content(blob_name(entry.digest), limit=MANIFEST_LIMIT)
            document = parse_document(data, entry.media_type)
            if isinstance(document, Manifest):
                return _Manifested(data, document)
            entry = choose(document, wanted)
        raise InvalidParameterError(f"manifest lists are nested more than {_DEPTH - 1} deep")

    async def _load(
        self,
        members: Members,
        archived: ArchivedImage,
        manifest: _Manifested | None,
        progress: LoadProgress,
        wanted: Platform | None,
    ) -> bool:
        """Load one image; False if it is of another platform than wanted."""
        data = await members.content(archived.config, limit=SIZE_LIMIT)
        config = ImageConfig.parse(data)
        if config.os != "linux":
            raise InvalidParameterError(f'image operating system "{config.os[:50]}" cannot be used on this platform')
        if wanted is not None and Platform.of(config.os, config.architecture, config.variant) != wanted:
            return False
        if len(config.diff_ids) != len(archived.layers):
            raise InvalidParameterError(
                f"invalid manifest, layers length mismatch: expected {len(config.diff_ids)}, got {len(archived.layers)}"
            )
        image = self._present(Digest.of(data))
        if image is None:
            image = await self._make(members, archived, config, data, progress)
        manifest = manifest or await self._described(members, image, archived)
        if manifest is not None and all(self._kept.content.has(layer.digest) for layer in manifest.document.layers):
            self._kept.add_manifest(image.id, manifest.data, manifest.document.media_type)
        for name in archived.names:
            before = self._images.tag(image.id, name)
            if before is not None:
                progress.renamed(name, before)
        progress.loaded(image, archived.names)
        return True

    def _present(self, image_id: Digest) -> Image | None:
        try:
            return self._images.get_by_id(image_id.hex)
        except NotFoundError:
            return None

    async def _make(
        self, members: Members, archived: ArchivedImage, config: ImageConfig, data: bytes, progress: LoadProgress
    ) -> Image:
        held: list[Digest] = []
        try:
            for member, diff_id, chain in zip(archived.layers, config.diff_ids, config.chain_ids, strict=True):
                if self._layers.has(chain):
                    self._layers.retain(chain)
                else:
                    below = held[-1] if held else None
                    await self._layer(await members.file(member), diff_id, below, progress)
                held.append(chain)
            image, tombstones = await self._images.create(data, held[-1] if held else None)
            held = held[:-1]  # the image has it now
            self._bury(tombstones)
            return image
        finally:
            for chain in held:
                self._bury(self._layers.release(chain))

    async def _layer(self, file: GrowingFile, diff_id: Digest, below: Digest | None, progress: LoadProgress) -> None:
        """Unpack a layer, retained for the caller; a compressed one is kept."""

        def consumed(count: int) -> None:
            progress.layer(diff_id, count, file.size)

        compression = await _compression(file)
        plain = compression is Compression.NONE
        await self._unpacker.run(file.read(consumed), parent=below, expected=diff_id, record=plain)
        if not plain:
            self._keep(file, diff_id, compression)

    def _keep(self, file: GrowingFile, diff_id: Digest, compression: Compression) -> None:
        digest = file.digest_so_far
        kind = {Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}.get(compression)
        if kind is None:
            return  # no registry takes it: it will be made anew
        file.keep_as(self._kept.content.path(digest))  # also where a damaged one is
        self._kept.add_layer(diff_id, Descriptor(f"application/vnd.oci.image.layer.v1.tar{kind}", digest, file.size))

    async def _described(self, members: Members, image: Image, archived: ArchivedImage) -> _Manifested | None:
        """Return the manifest that an archive with both documents has of an image of ``manifest.json``."""
        if not archived.layers or any(digest_of_name(layer) is None for layer in archived.layers):
            return None
        data = await members.document(INDEX)
        if data is None:
            return None
        try:
            for entry in parse_index(data).manifests:
                if entry.media_type not in MANIFESTS or entry.media_type in INDEXES:
                    continue
                found = await members.content(blob_name(entry.digest), limit=MANIFEST_LIMIT)
                document = parse_document(found, entry.media_type)
                if not isinstance(document, Index) and document.config.digest == image.id:
                    return _Manifested(found, document)
        except OrlopError:
            return None  # what manifest.json says is enough
        return None


async def _compression(file: GrowingFile) -> Compression:
    head = b""
    async with contextlib.aclosing(file.read()) as reading:
        async for piece in reading:
            head += piece[:PEEK]
            if len(head) >= PEEK:
                break
    return detect(head)
