"""What a disk, or a hand, has changed of images: every kept blob and every file of every layer is read.

==============  ======================================================  ======================================
kind            what                                                    repair
==============  ======================================================  ======================================
damaged image   its configuration is not what its digest says           never: remove it, and get it again
damaged blob    a kept layer or manifest is not what its digest says    removed: it is made or pulled again
damaged layer   its files are not those of its blob, or recipe          unpacked again from the blob
==============  ======================================================  ======================================

No record is made for this when a layer is unpacked: what the layer came as is there to compare with. A kept blob is
undone and compared with the files in a child of the spawner (:mod:`orlop.primitives.tar.compare`); where there is
only a recipe, the tar that it makes of the files must have the diff id.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from orlop.engine.checking.finding import Finding
from orlop.errors import DataLossError, InvalidParameterError, OrlopError
from orlop.image.feed import pour
from orlop.image.growing import read_file
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from orlop.image.kept import KeptBlobs
    from orlop.image.layer_tar import LayerTars
    from orlop.image.store import ImageStore
    from orlop.primitives.tar import Limits, Unpacked
    from orlop.spec.launch import OverlayRoot
    from orlop.storage.layers import LayerStore

_SHOWN = 5


class DamageOps(Protocol):
    """Work on trees, done in children of the spawner."""

    async def compare(self, overlay: OverlayRoot, stream_fd: int, limits: Limits) -> list[str]:
        """Compare a tar with the topmost layer's files; returns what differs."""
        ...

    def unpack(self, root: OverlayRoot, stream_fd: int, limits: Limits) -> Coroutine[None, None, Unpacked]:
        """Unpack a tar over what is in a tree."""
        ...


class Damage:
    """See :class:`~orlop.engine.checking.checker.Search`.

    Args:
        images: whose layers are looked at.
        layers: where they are.
        kept: what they came as.
        tars: what they were made of, where that was not kept.
        ops: reads and mends.
        limits: those of layers.
        running: returns the ids of images that running containers use.
        bury: removes trees that are left over.
    """

    def __init__(
        self,
        *,
        images: ImageStore,
        layers: LayerStore,
        kept: KeptBlobs,
        tars: LayerTars,
        ops: DamageOps,
        limits: Limits,
        running: Callable[[], set[str]],
        bury: Callable[[Iterable[str]], None],
    ) -> None:
        self._images = images
        self._layers = layers
        self._kept = kept
        self._tars = tars
        self._ops = ops
        self._limits = limits
        self._running = running
        self._bury = bury

    async def find(self, *, quick: bool) -> list[Finding]:
        """Return what is damaged; nothing when it must be quick."""
        if quick:
            return []
        blobs = await self._blobs()
        damaged = {finding.name for finding in blobs}
        layers = {
            chain: diff_id
            for image in self._images.images()
            for chain, diff_id in zip(image.config.chain_ids, image.config.diff_ids, strict=True)
        }
        found = [await self._layer(chain, diff_id, damaged) for chain, diff_id in layers.items()]
        return [*blobs, *(finding for finding in found if finding is not None)]

    async def repair(self, findings: list[Finding]) -> list[Finding]:
        """Make again what can be made again."""
        return [await self._mend(finding) if finding.repairable else finding for finding in findings]

    async def _blobs(self) -> list[Finding]:
        configurations = {image.id for image in self._images.images()}
        found = []
        for digest in list(self._kept.content.digests()):
            if await asyncio.to_thread(self._kept.content.is_intact, digest, uncached=True):
                continue
            if digest in configurations:
                note = "kept: remove the image and get it again"
                found.append(Finding("damaged image", str(digest), self._size(digest), note))
            elif self._kept.content.has(digest):
                found.append(Finding("damaged blob", str(digest), self._size(digest)))
        return found

    def _size(self, digest: Digest) -> int:
        try:
            return os.stat(self._kept.content.path(digest)).st_size
        except OSError:
            return 0

    async def _layer(self, chain: Digest, diff_id: Digest, damaged: set[str]) -> Finding | None:
        if not self._layers.has(chain):
            return None  # removed meanwhile
        self._layers.retain(chain)
        try:
            blob = self._blob(diff_id, damaged)
            different = await self._differences(chain, diff_id, blob)
            if not different:
                return None
            shown = ", ".join(different[:_SHOWN]) + (f" and {len(different) - _SHOWN} more" * (len(different) > _SHOWN))
            size = self._layers.get(chain).size
            return Finding("damaged layer", str(chain), size, self._refusal(chain, blob), detail=shown)
        finally:
            self._bury(self._layers.release(chain))

    def _blob(self, diff_id: Digest, damaged: set[str]) -> Digest | None:
        """Return a kept blob of a layer that is not damaged."""
        for blob in self._kept.layers(diff_id):
            if str(blob.digest) not in damaged and self._kept.content.has(blob.digest):
                return blob.digest
        return None

    async def _differences(self, chain: Digest, diff_id: Digest, blob: Digest | None) -> list[str]:
        if blob is None:
            if not self._kept.recipes.has(diff_id):
                return []  # there is nothing to compare with
            try:
                await self._tars.check_recipe(diff_id, chain)
            except DataLossError as error:
                return [str(error)]
            return []
        view = self._layers.layer_view(chain)
        stream = read_file(self._kept.content.path(blob))
        try:
            digest, different = await pour(stream, lambda fd: self._ops.compare(view, fd, self._limits))
        except InvalidParameterError as error:
            return [str(error)]
        return different if digest == diff_id else ["its blob makes another layer"]

    def _refusal(self, chain: Digest, blob: Digest | None) -> str:
        """Say why the layer cannot be made again; empty if it can."""
        if blob is None:
            return "kept: there is no blob to make it from"
        if self._layers.whole:
            return f"kept: layers of {self._layers.driver.name} are not changed"
        running = self._running()
        if any(str(image.id) in running for image in self._images.images() if chain in image.config.chain_ids):
            return "kept: a running container uses it"
        return ""

    async def _mend(self, finding: Finding) -> Finding:
        digest = Digest(finding.name.removeprefix("sha256:"))
        if finding.kind == "damaged blob":
            self._kept.content.remove(digest)
            return replace(finding, repaired=True)
        if not self._layers.has(digest):
            return replace(finding, repaired=True)
        self._layers.retain(digest)
        try:
            diff_id = self._layers.get(digest).diff_id
            blob = self._blob(diff_id, set())
            note = self._refusal(digest, blob)
            if note or blob is None:
                return replace(finding, note=note)
            await self._unpack_again(digest, blob)
            left = await self._differences(digest, diff_id, blob)
        except OrlopError as error:
            return replace(finding, note=f"kept: {error}")
        finally:
            self._bury(self._layers.release(digest))
        return replace(finding, repaired=not left, detail=", ".join(left[:_SHOWN]) or finding.detail)

    async def _unpack_again(self, chain: Digest, blob: Digest) -> None:
        """Unpack the layer over its own files: each is replaced, what lies there besides stays."""
        tree = self._layers.driver.tree(chain.hex)
        stream = read_file(self._kept.content.path(blob))
        await pour(stream, lambda fd: self._ops.unpack(tree, fd, self._limits))
