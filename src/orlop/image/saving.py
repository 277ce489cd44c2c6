"""``docker save``: images as one tar that is both Docker's archive and an OCI layout.

::

    oci-layout  index.json  manifest.json  repositories
    blobs/sha256/<config>  blobs/sha256/<manifest>  blobs/sha256/<layer> ...      image by image, layers bottom first

What describes comes first and layers in their order, so that a reader can unpack while it reads. Layers are the kept
blobs, as they were pulled; others are tars that are not compressed, as dockerd writes them. The same images give the
same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import NotFoundError, OrlopError
from orlop.image.archive_index import (
    INDEX,
    LAYOUT,
    MANIFEST,
    REPOSITORIES,
    SavedImage,
    blob_name,
    render_docker_manifest,
    render_index,
    render_repositories,
)
from orlop.image.feed import in_thread
from orlop.image.growing import read_file
from orlop.primitives.tar import END, Entry, Kind, render_entry
from orlop.spec.digest import Digest
from orlop.spec.manifest import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    SIZE_LIMIT,
    Descriptor,
    Manifest,
    parse_document,
    render_manifest,
    retyped,
)
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.image.kept import KeptBlobs
    from orlop.image.layer_tar import LayerTars
    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.spec.reference import Reference

_BLOCK = 512


class Saver:
    """Owns no state."""

    def __init__(self, images: ImageStore, kept: KeptBlobs, tars: LayerTars) -> None:
        self._images = images
        self._kept = kept
        self._tars = tars

    def choose(self, names: Sequence[str]) -> list[tuple[Image, tuple[Reference, ...]]]:
        """Return what to save: each image once, with the tags that were asked for.

        A repository without tag is all its tags, an id none.

        Raises:
            NotFoundError: "reference does not exist", or of a name without tag "No such image: ...".
        """
        found: dict[Digest, list[Reference]] = {}
        for name in names:
            for image, reference in self._find(name):
                tags = found.setdefault(image.id, [])
                if reference is not None and reference not in tags:
                    tags.append(reference)
        return [(self._images.get_by_id(image_id.hex), tuple(tags)) for image_id, tags in found.items()]

    def _find(self, name: str) -> list[tuple[Image, Reference | None]]:
        try:
            image = self._images.get(name)
        except NotFoundError:
            image = None
        if image is not None and image.id.hex.startswith(name.removeprefix("sha256:")):
            return [(image, None)]
        reference = parse_reference(name)
        if reference.digest is not None and image is not None:
            return [(image, None)]
        if reference.tag is not None and image is not None:
            return [(image, reference)]
        of_repository: list[tuple[Image, Reference | None]] = [
            (other, tag)
            for other in self._images.images()
            for tag in other.references
            if reference.tag is None and tag.name == reference.name and tag.digest is None
        ]
        if not of_repository:
            plain = reference.tag is None and reference.digest is None
            raise NotFoundError(f"No such image: {name}" if plain else "reference does not exist")
        return of_repository

    async def write(self, chosen: Sequence[tuple[Image, tuple[Reference, ...]]]) -> AsyncIterator[bytes]:
        """Yield the archive.

        Raises:
            DataLossError: a layer or blob is damaged.
            NotFoundError: an image was removed meanwhile.
        """
        documents: list[tuple[SavedImage, bytes, Image]] = []
        intact: set[Digest] = set()  # several images may have a layer
        for image, names in chosen:
            saved, manifest = await self._describe(image, names, intact)
            documents.append((saved, manifest, image))
        images = [saved for saved, _, _ in documents]
        yield _file(LAYOUT, b'{"imageLayoutVersion": "1.0.0"}')
        yield _file(INDEX, render_index(images))
        yield _file(MANIFEST, render_docker_manifest(images))
        repositories = render_repositories(images)
        if repositories is not None:
            yield _file(REPOSITORIES, repositories)
        for directory in ("blobs/", "blobs/sha256/"):
            yield render_entry(Entry(directory.encode(), Kind.DIRECTORY, 0o755))
        written: set[Digest] = set()
        for saved, manifest, image in documents:
            for digest, data in (
                (saved.config, self._images.config_bytes(image.id)),
                (saved.manifest.digest, manifest),
            ):
                if digest not in written:
                    written.add(digest)
                    yield _file(blob_name(digest), data)
            chains = image.config.chain_ids
            for layer, diff_id, chain in zip(saved.layers, saved.diff_ids, chains, strict=True):
                if layer.digest not in written:
                    written.add(layer.digest)
                    yield _header(blob_name(layer.digest), layer.size)
                    async for data in self._content(layer, diff_id, chain):
                        yield data
                    yield bytes(-layer.size % _BLOCK)
        yield END

    def _content(self, layer: Descriptor, diff_id: Digest, chain: Digest) -> AsyncIterator[bytes]:
        if layer.digest == diff_id:
            return self._tars.read(diff_id, chain)
        return read_file(self._kept.content.path(layer.digest))

    async def _describe(
        self, image: Image, names: tuple[Reference, ...], intact: set[Digest]
    ) -> tuple[SavedImage, bytes]:
        config = image.config
        data = self._images.config_bytes(image.id)
        document, manifest = await self._kept_manifest(image, intact)
        if manifest is None:
            layers = [
                await self._layer(diff_id, chain)
                for diff_id, chain in zip(config.diff_ids, config.chain_ids, strict=True)
            ]
            document = render_manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, image.id, len(data)), layers)
            manifest = Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, image.id, len(data)), tuple(layers))
        descriptor = Descriptor(manifest.media_type, Digest.of(document), len(document))
        return SavedImage(descriptor, image.id, manifest.layers, config.diff_ids, names), document

    async def _kept_manifest(self, image: Image, intact: set[Digest]) -> tuple[bytes, Manifest | None]:
        """Return the manifest that the image came with, if everything that it names is here and not damaged."""
        for descriptor in self._kept.manifests(image.id):
            try:
                data = self._kept.content.get(descriptor.digest, limit=SIZE_LIMIT)
                document = parse_document(data, descriptor.media_type)
            except OrlopError:
                continue
            if (
                isinstance(document, Manifest)
                and len(document.layers) == len(image.config.diff_ids)
                and await self._are_intact(document.layers, intact)
            ):
                return data, document
        return b"", None

    async def _are_intact(self, layers: Sequence[Descriptor], intact: set[Digest]) -> bool:
        for layer in layers:
            if layer.digest in intact:
                continue
            if not await in_thread(self._kept.content.is_intact, layer.digest):
                return False
            intact.add(layer.digest)
        return True

    async def _layer(self, diff_id: Digest, chain: Digest) -> Descriptor:
        blob = await self._kept.find_intact(diff_id)
        if blob is not None:
            return retyped(blob, oci=True)
        return Descriptor(OCI_LAYER, diff_id, await self._tars.size(diff_id, chain))


def _header(name: str, size: int) -> bytes:
    return render_entry(Entry(name.encode(), Kind.FILE, 0o644, size=size, real_size=size))


def _file(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % _BLOCK)
