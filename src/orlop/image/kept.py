"""What images came as: their manifests, and the blobs that their layers were unpacked from.

A push then gives back the very digests that were pulled, and a layer can be unpacked again. All this is beside the
images, not part of them: without it an image runs as well, and is pushed as layers made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.image.feed import in_thread
from orlop.primitives.sql import transaction
from orlop.spec.digest import Digest
from orlop.spec.manifest import Descriptor

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable

    from orlop.image.content import ContentStore
    from orlop.image.recipes import RecipeStore
    from orlop.spec.reference import Reference

SCHEMA = """
CREATE TABLE IF NOT EXISTS layer_blobs (
    diff_id TEXT NOT NULL,          -- hex
    digest TEXT NOT NULL,           -- hex of a blob that unpacks to it
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,          -- bytes of the blob
    PRIMARY KEY (diff_id, digest)
) STRICT;
CREATE TABLE IF NOT EXISTS blob_sources (
    digest TEXT NOT NULL,           -- hex
    repository TEXT NOT NULL,       -- with its domain: there the blob was seen
    PRIMARY KEY (digest, repository)
) STRICT;
CREATE TABLE IF NOT EXISTS image_manifests (
    image TEXT NOT NULL,            -- hex
    digest TEXT NOT NULL,           -- hex of the manifest, whose bytes are a blob
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (image, digest)
) STRICT;
"""


class KeptBlobs:
    """Owns the tables above, and says which blobs of the content store and which recipes are still needed."""

    def __init__(self, database: sqlite3.Connection, content: ContentStore, recipes: RecipeStore) -> None:
        self._database = database
        self.content = content
        self.recipes = recipes

    def add_layer(self, diff_id: Digest, blob: Descriptor, repository: Reference | None = None) -> None:
        """Remember a blob of a layer, and where it was seen. Raises SystemFailureError."""
        with transaction(self._database, "keep blob"):
            row = (diff_id.hex, blob.digest.hex, blob.media_type, blob.size)
            self._database.execute("INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?)", row)
            if repository is not None:
                self._add_source(blob.digest, repository)

    def add_source(self, digest: Digest, repository: Reference) -> None:
        """Remember that a repository has a blob. Raises SystemFailureError."""
        with transaction(self._database, "keep blob's source"):
            self._add_source(digest, repository)

    def _add_source(self, digest: Digest, repository: Reference) -> None:
        self._database.execute("INSERT OR IGNORE INTO blob_sources VALUES (?, ?)", (digest.hex, repository.name))

    def add_manifest(self, image: Digest, data: bytes, media_type: str) -> Descriptor:
        """Keep a manifest of an image. Raises SystemFailureError."""
        digest = self.content.put(data)
        with transaction(self._database, "keep manifest"):
            # Again, so that it is the last: that is the one that a push prefers.
            self._database.execute(
                "DELETE FROM image_manifests WHERE image = ? AND digest = ?", (image.hex, digest.hex)
            )
            row = (image.hex, digest.hex, media_type, len(data))
            self._database.execute("INSERT INTO image_manifests VALUES (?, ?, ?, ?)", row)
        return Descriptor(media_type, digest, len(data))

    def layers(self, diff_id: Digest) -> list[Descriptor]:
        """Return the known blobs of a layer, those that are here first."""
        rows = self._database.execute(
            "SELECT media_type, digest, size FROM layer_blobs WHERE diff_id = ? ORDER BY rowid DESC", (diff_id.hex,)
        )
        found = [Descriptor(media_type, Digest(digest), size) for media_type, digest, size in rows]
        return sorted(found, key=lambda blob: not self.content.is_sized(blob.digest, blob.size))

    async def find_intact(self, diff_id: Digest, *, wanted: Descriptor | None = None) -> Descriptor | None:
        """Return a blob of the layer whose bytes are here and right, ``wanted`` if it is one; None for none."""
        for blob in sorted(self.layers(diff_id), key=lambda blob: blob != wanted):
            if await in_thread(self.content.is_intact, blob.digest):
                return blob
        return None

    def is_complete(self, diff_ids: Iterable[Digest]) -> bool:
        """Tell whether each layer's tar can be had: from a blob that is here, or by its recipe."""
        return all(
            self.recipes.has(diff_id) or any(self.content.has(blob.digest) for blob in self.layers(diff_id))
            for diff_id in diff_ids
        )

    def sources(self, digest: Digest) -> list[str]:
        """Return the repositories, with their domains, that were seen to have a blob."""
        rows = self._database.execute("SELECT repository FROM blob_sources WHERE digest = ?", (digest.hex,))
        return [name for (name,) in rows]

    def manifests(self, image: Digest) -> list[Descriptor]:
        """Return the manifests of an image, the last first."""
        rows = self._database.execute(
            "SELECT media_type, digest, size FROM image_manifests WHERE image = ? ORDER BY rowid DESC", (image.hex,)
        )
        return [Descriptor(media_type, Digest(digest), size) for media_type, digest, size in rows]

    def forget(self, image: Digest, diff_ids: Iterable[Digest]) -> None:
        """Drop what belongs to a deleted image, and to layers that no image has any more.

        Args:
            image: it is gone.
            diff_ids: its layers that no other image has.
        """
        manifests = [descriptor.digest for descriptor in self.manifests(image)]
        unused = list(diff_ids)
        blobs = [blob.digest for diff_id in unused for blob in self.layers(diff_id)]
        with transaction(self._database, f"forget blobs of {image.short}"):
            self._database.execute("DELETE FROM image_manifests WHERE image = ?", (image.hex,))
            for diff_id in unused:
                self._database.execute("DELETE FROM layer_blobs WHERE diff_id = ?", (diff_id.hex,))
            for digest in blobs:
                self._database.execute("DELETE FROM blob_sources WHERE digest = ?", (digest.hex,))
            kept = self._referenced([*manifests, *blobs])
        for digest in (*manifests, *blobs):
            if digest not in kept:
                self.content.remove(digest)
        for diff_id in unused:
            self.recipes.remove(diff_id)

    def _referenced(self, digests: Iterable[Digest]) -> set[Digest]:
        found = set()
        for digest in digests:
            query = "SELECT 1 FROM layer_blobs WHERE digest = ?1 UNION SELECT 1 FROM image_manifests WHERE digest = ?1"
            if self._database.execute(query, (digest.hex,)).fetchone() is not None:
                found.add(digest)
        return found

    def collect(self, images: Collection[Digest], diff_ids: Collection[Digest]) -> None:
        """Drop what a crash left: rows and recipes of images and layers that are not there. Call at start.

        Blobs without rows are left alone: they may belong to a pull that will be continued (:meth:`sweep`).
        """
        with transaction(self._database, "collect blobs"):
            for (image,) in self._database.execute("SELECT DISTINCT image FROM image_manifests").fetchall():
                if Digest(image) not in images:
                    self._database.execute("DELETE FROM image_manifests WHERE image = ?", (image,))
            for (diff_id,) in self._database.execute("SELECT DISTINCT diff_id FROM layer_blobs").fetchall():
                if Digest(diff_id) not in diff_ids:
                    self._database.execute("DELETE FROM layer_blobs WHERE diff_id = ?", (diff_id,))
        known = {diff_id.hex for diff_id in diff_ids}
        for name in self.recipes.names():
            if name not in known:
                self.recipes.remove(Digest(name))

    def unreferenced(self, images: Collection[Digest]) -> list[Digest]:
        """Return the blobs that belong to no image."""
        used = {digest for (digest,) in self._database.execute("SELECT digest FROM layer_blobs")}
        used.update(digest for (digest,) in self._database.execute("SELECT digest FROM image_manifests"))
        return [digest for digest in self.content.digests() if digest.hex not in used and digest not in images]
