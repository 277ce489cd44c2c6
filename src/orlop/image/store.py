"""Images and their names.

The configuration is a blob whose digest is the image's id. The database says which images and names exist; the store
keeps both in memory as well, because a container's start must not read a disk.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from orlop.errors import DataLossError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.image.records import Deletion, HistoryEntry, Image
from orlop.primitives.sql import transaction
from orlop.spec.digest import Digest
from orlop.spec.image import SIZE_LIMIT, ImageConfig
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from orlop.image.content import ContentStore
    from orlop.image.kept import KeptBlobs

SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY,            -- hex of the configuration's digest
    parent TEXT,                    -- hex of the image it was committed or built from, here
    chain TEXT,                     -- hex of the top layer's chain id; NULL for no layers
    last_tagged INTEGER NOT NULL    -- nanoseconds since the epoch; 0 never
) STRICT;
CREATE TABLE IF NOT EXISTS image_names (
    reference TEXT PRIMARY KEY,     -- normalised, with tag or digest
    image TEXT NOT NULL             -- hex
) STRICT;
"""


class Layers(Protocol):
    """What images need of the layer store (``storage.layers.LayerStore``)."""

    def retain(self, chain: Digest) -> None:
        """Count one more user."""
        ...

    def release(self, chain: Digest) -> list[str]:
        """Count one user less; return tombstones."""
        ...

    def has(self, chain: Digest) -> bool:
        """Tell whether the layer is there."""
        ...

    def size(self, chain: Digest | None) -> int:
        """Return the bytes of a layer and all below it."""
        ...

    async def prepare_init(self, chain: Digest | None) -> str:
        """Make the init layer ready."""
        ...


class ImageStore:
    """Owns the tables above and the configurations' blobs."""

    def __init__(
        self, database: sqlite3.Connection, content: ContentStore, layers: Layers, kept: KeptBlobs | None = None
    ) -> None:
        self._database = database
        self._kept = kept
        self._content = content
        self._layers = layers
        self._images: dict[Digest, Image] = {}
        self._names: dict[Reference, Digest] = {}

    def load(self) -> list[str]:
        """Read everything and retain the layers; returns the ids of images that had to be given up as damaged.

        Call once, after ``LayerStore.load`` and before ``LayerStore.collect``.
        """
        damaged = []
        names: dict[str, list[Reference]] = {}
        for text, image in self._database.execute("SELECT reference, image FROM image_names ORDER BY reference"):
            names.setdefault(image, []).append(parse_reference(text))
        rows = self._database.execute("SELECT id, parent, chain, last_tagged FROM images").fetchall()
        for hex_id, parent, _, last_tagged in rows:
            digest = Digest(hex_id)
            try:
                config = ImageConfig.parse(self._content.get(digest, limit=SIZE_LIMIT))
                if not all(self._layers.has(chain) for chain in config.chain_ids):
                    raise DataLossError(f"image {digest} has lost layers")
            except (NotFoundError, DataLossError, InvalidParameterError):
                damaged.append(str(digest))
                self._forget(hex_id)
                continue
            image = Image(
                digest, config, 0, tuple(names.get(hex_id, ())), last_tagged, Digest(parent) if parent else None
            )
            self._adopt(image)
            if image.chain is not None:
                self._layers.retain(image.chain)
        if self._kept is not None:
            self._kept.collect(self._images.keys(), self._diff_ids())
        return damaged

    def _diff_ids(self) -> set[Digest]:
        return {diff_id for image in self._images.values() for diff_id in image.config.diff_ids}

    def _adopt(self, image: Image) -> Image:
        image = replace(image, size=self._layers.size(image.chain))
        self._images[image.id] = image
        for reference in image.references:
            self._names[reference] = image.id
        return image

    def _forget(self, hex_id: str) -> None:
        with transaction(self._database, f"delete image {hex_id[:12]}"):
            self._database.execute("DELETE FROM image_names WHERE image = ?", (hex_id,))
            self._database.execute("DELETE FROM images WHERE id = ?", (hex_id,))

    # Looking up.

    def get(self, name: str) -> Image:
        """Find an image by reference, id, unique prefix of an id, or digest, in Docker's order.

        Raises:
            NotFoundError: "No such image: x:latest".
            InvalidParameterError: the name can be none of these.
        """
        digest = _as_id(name)
        if digest is not None:
            if digest not in self._images:
                raise NotFoundError(f"No such image: {digest}")
            return self._images[digest]
        reference = parse_reference(name).with_default_tag()
        image_id = self._names.get(_key(reference))
        if image_id is None:
            image_id = self._find_prefix(name)
        if image_id is None:
            raise NotFoundError(f"No such image: {reference.familiar}")
        return self._images[image_id]

    def get_by_id(self, image_id: str) -> Image:
        """Return the image whose full id (``sha256:<hex>`` or hex) this is.

        Raises:
            NotFoundError: it does not exist.
        """
        image = self._images.get(Digest(image_id.removeprefix("sha256:")))
        if image is None:
            raise NotFoundError(f"No such image: {image_id}")
        return image

    def find(self, reference: Reference) -> Image | None:
        """Return the image of exactly this name; None when there is none."""
        image_id = self._names.get(_key(reference))
        return None if image_id is None else self._images[image_id]

    def config_bytes(self, image_id: Digest) -> bytes:
        """Return an image's configuration, as it came.

        Raises:
            NotFoundError, DataLossError: it is not there, or damaged.
        """
        return self._content.get(image_id, limit=SIZE_LIMIT)

    def _find_prefix(self, name: str) -> Digest | None:
        prefix = name.removeprefix("sha256:")
        if not prefix:
            return None
        found = [image_id for image_id in self._images if image_id.hex.startswith(prefix)]
        return found[0] if len(found) == 1 else None

    def images(self) -> list[Image]:
        """Return all images, newest first, as ``docker images`` does."""
        return sorted(self._images.values(), key=lambda image: (image.config.created, image.id.hex), reverse=True)

    def children(self, image_id: Digest) -> list[Image]:
        """Return the images that were committed or built from this one."""
        return [image for image in self._images.values() if image.parent == image_id]

    def history(self, image: Image) -> list[HistoryEntry]:
        """Return ``docker history``, newest first."""
        chains = iter(image.config.chain_ids)
        below = 0
        entries = []
        for step in image.config.history:
            size = 0
            if not step.empty_layer:
                total = self._layers.size(next(chains, None))
                size, below = total - below, total
            entries.append(HistoryEntry("<missing>", step, max(size, 0), ()))
        entries.reverse()
        current: Image | None = image
        for position, entry in enumerate(entries):
            if current is None:
                break
            entries[position] = replace(entry, id=str(current.id), tags=current.tags)
            current = self._images.get(current.parent) if current.parent is not None else None
        return entries

    # Making and naming.

    async def create(
        self,
        config: bytes,
        chain: Digest | None,
        reference: Reference | None = None,
        *,
        parent: Digest | None = None,
        step: bool = False,
    ) -> tuple[Image, list[str]]:
        """Make an image of a configuration and layers that exist, and name it.

        Args:
            config: the document, kept as it is.
            chain: its top layer, whose reference the caller hands over.
            reference: its name, taken from another image that may have it; None for none.
            parent: the image it was made from.
            step: it is one of many of a build: a power cut may take it, and what a container needs beside its layers is
                made when one is; :meth:`complete` makes up for both.

        Returns:
            The image, and tombstones.

        Raises:
            InvalidParameterError: the configuration is malformed or is not of these layers.
            SystemFailureError: no space left on device and the like.

        When it raises, nothing was made and the layer's reference is still the caller's.
        """
        parsed = ImageConfig.parse(config)
        if (parsed.chain_ids or (None,))[-1] != chain:
            raise InvalidParameterError("invalid image config: its layers are not those of the image")
        image_id = Digest.of(config)
        if image_id not in self._images and not step:
            await self._layers.prepare_init(chain)
        known = image_id in self._images
        if not known:
            self._content.put(config, durable=not step)
        now = time.time_ns()
        try:
            with transaction(self._database, "create image"):
                if not known:
                    row = (image_id.hex, parent.hex if parent else None, chain.hex if chain else None)
                    self._database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, 0)", row)
                if reference is not None:
                    self._write_name(image_id, _key(reference.with_default_tag()), now)
        except BaseException:
            if not known:
                self._content.remove(image_id)
            raise
        tombstones: list[str] = []
        if not known:
            self._adopt(Image(image_id, parsed, 0, parent=parent))
        elif chain is not None:
            tombstones = self._layers.release(chain)
        if reference is not None:
            self._hold_name(image_id, _key(reference.with_default_tag()), now)
        return self._images[image_id], tombstones

    async def complete(self, image: Image) -> None:
        """Make an image of a build's step one like others.

        Raises:
            SystemFailureError: no space left on device and the like.
        """
        await self._layers.prepare_init(image.chain)
        self._content.sync(image.id)

    def tag(self, image_id: Digest, reference: Reference) -> Image | None:
        """Name an image; returns the image that had the name before, if another one did.

        Raises:
            NotFoundError: there is no such image.
            SystemFailureError: no space left on device.
        """
        self.get_by_id(image_id.hex)
        reference = _key(reference.with_default_tag())
        now = time.time_ns()
        with transaction(self._database, f"tag {reference.familiar}"):
            self._write_name(image_id, reference, now)
        return self._hold_name(image_id, reference, now)

    def _write_name(self, image_id: Digest, reference: Reference, now: int) -> None:
        self._database.execute("INSERT OR REPLACE INTO image_names VALUES (?, ?)", (str(reference), image_id.hex))
        self._database.execute("UPDATE images SET last_tagged = ? WHERE id = ?", (now, image_id.hex))

    def _hold_name(self, image_id: Digest, reference: Reference, now: int) -> Image | None:
        """Do in memory what was written; return the image that lost the name."""
        image = self._images[image_id]
        previous = self._names.get(reference)
        self._names[reference] = image_id
        references = tuple(sorted({*image.references, reference}, key=str))
        self._images[image_id] = replace(image, references=references, last_tagged=now)
        if previous is None or previous == image_id:
            return None
        return self._drop_name(previous, reference)

    def untag(self, *references: Reference) -> None:
        """Take names away, all of them or none.

        Raises:
            NotFoundError: nothing has one of them.
        """
        keys = [_key(reference.with_default_tag()) for reference in references]
        for key in keys:
            if key not in self._names:
                raise NotFoundError(f"No such image: {key.familiar}")
        with transaction(self._database, f"untag {' '.join(key.familiar for key in keys)}"):
            self._database.executemany("DELETE FROM image_names WHERE reference = ?", [(str(key),) for key in keys])
        for key in keys:
            self._drop_name(self._names.pop(key), key)

    def without(self, image: Image, reference: Reference) -> tuple[Reference, ...]:
        """Return the names that an image has beside this one."""
        key = _key(reference.with_default_tag())
        return tuple(other for other in image.references if other != key)

    def _drop_name(self, image_id: Digest, reference: Reference) -> Image:
        image = self._images[image_id]
        references = tuple(other for other in image.references if other != reference)
        self._images[image_id] = replace(image, references=references)
        return self._images[image_id]

    def delete(self, image_id: Digest) -> Deletion:
        """Delete an image with its names, and the layers that nothing else needs.

        Names and image go in one transaction: who kills the engine here finds both or neither.
        """
        self._forget(image_id.hex)
        image = self._images.pop(image_id)
        for reference in image.references:
            del self._names[reference]
        self._content.remove(image_id)
        if self._kept is not None:
            with contextlib.suppress(SystemFailureError):  # a full disk: the next start does it
                self._kept.forget(image_id, set(image.config.diff_ids) - self._diff_ids())
        if image.chain is None:
            return Deletion()
        chains: Iterable[Digest] = image.config.chain_ids
        sizes = {chain: self._layers.size(chain) for chain in chains}
        tombstones = self._layers.release(image.chain)
        gone = tuple(chain for chain in reversed(sizes) if not self._layers.has(chain))
        kept = max((size for chain, size in sizes.items() if self._layers.has(chain)), default=0)
        return Deletion(tuple(tombstones), sizes[image.chain] - kept, gone)


def _as_id(name: str) -> Digest | None:
    """Return the digest if the name is a whole one, with or without its algorithm."""
    try:
        return Digest(name.removeprefix("sha256:"))
    except InvalidParameterError:
        return None


def _key(reference: Reference) -> Reference:
    """Return the reference under which a name is kept: a digest, where there is one, decides alone."""
    return replace(reference, tag=None) if reference.digest is not None else reference
