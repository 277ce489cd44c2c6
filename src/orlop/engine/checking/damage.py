"""What a disk, or a hand, has changed of images: every kept blob and every file of every layer is read.

==============  ======================================================  ======================================
kind            what                                                    repair
==============  ======================================================  ======================================
damaged image   its configuration is not what its digest says           never: remove it, and get it again
damaged blob    a kept layer or manifest is not what its digest says    removed: it is made or pulled again
damaged layer   its files are not those of its blob, or recipe          made again from them (storage.remaking)
==============  ======================================================  ======================================

No record is made for this when a layer is unpacked: what the layer came as is there to compare with. A kept blob is
undone and compared with the files in a child of the spawner (:mod:`orlop.primitives.tar.compare`); where there is
only a recipe, the tar that it makes of the files must have the diff id.

With whole trees a layer has a copy of those below it, and the init layer one of it: these are compared with what they
were copied from. So when a layer has been made again, those above it are looked at again: where they share its blocks,
or were copied after it was damaged, they are made again as well. What containers have of it stays theirs.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from orlop.engine.checking.finding import Finding
from orlop.errors import ConflictError, DataLossError, InvalidParameterError, OrlopError
from orlop.image.feed import pour
from orlop.image.growing import read_file
from orlop.spec.digest import Digest
from orlop.storage.init_layer import PLACES
from orlop.storage.remaking import init_view, remake

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator

    from orlop.image.kept import KeptBlobs
    from orlop.image.layer_tar import LayerTars
    from orlop.image.store import ImageStore
    from orlop.primitives.tar import Limits, Unpacked
    from orlop.spec.launch import OverlayRoot
    from orlop.storage.layer_rows import Layer
    from orlop.storage.layers import LayerStore

_SHOWN = 5
# What an init layer has otherwise than the image.
_OWN = tuple(f"{path}: " for path in PLACES)
_TURNED = frozenset(f"{path.rpartition('/')[0]}: is something else" for path in PLACES)


class DamageOps(Protocol):
    """Work on trees, done in children of the spawner."""

    def compare(
        self, overlay: OverlayRoot, stream_fd: int, limits: Limits, *, below: OverlayRoot | None = None
    ) -> Coroutine[None, None, list[str]]:
        """Compare a tar with the topmost layer's files, and a whole tree with the one below; returns what differs."""
        ...

    def unpack(
        self, root: OverlayRoot, stream_fd: int, limits: Limits, *, apply: bool = False
    ) -> Coroutine[None, None, Unpacked]:
        """Unpack a tar into a tree."""
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
        busy: returns the ids of images whose layers running containers have mounted.
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
        busy: Callable[[], set[str]],
        bury: Callable[[Iterable[str]], None],
    ) -> None:
        self._images = images
        self._layers = layers
        self._kept = kept
        self._tars = tars
        self._ops = ops
        self._limits = limits
        self._busy = busy
        self._bury = bury

    async def find(self, *, quick: bool) -> list[Finding]:
        """Return what is damaged; nothing when it must be quick."""
        if quick:
            return []
        blobs = await self._blobs()
        damaged = {finding.name for finding in blobs}
        found: dict[Digest, Finding] = {}
        for chain in dict.fromkeys(chain for image in self._images.images() for chain in image.config.chain_ids):
            layer = await self._layer(chain, damaged, sound=self._is_sound(chain, {str(one) for one in found}))
            if layer is not None:
                found[chain] = layer
        return [*blobs, *found.values()]

    async def repair(self, findings: list[Finding]) -> list[Finding]:
        """Make again what can be made again, bottom first, and what then shows in the layers above."""
        broken = {finding.name for finding in findings if finding.kind == "damaged layer"}
        mended = []
        for finding in findings:
            if not finding.repairable:
                mended.append(finding)
            elif finding.kind == "damaged blob":
                self._kept.content.remove(_digest(finding))
                mended.append(replace(finding, repaired=True))
            else:
                mended += await self._mend_from(finding, broken)
        return mended

    async def _mend_from(self, finding: Finding, broken: set[str]) -> list[Finding]:
        """Mend a layer, and, where those above it have copies of it, these."""
        mended = [await self._mend(finding, broken)]
        if not mended[0].repaired:
            return mended
        broken.discard(finding.name)
        if self._layers.whole:
            for chain in self._layers.above(_digest(finding)):
                if str(chain) in broken or not self._is_sound(chain, broken):
                    continue  # its turn comes
                if (above := await self._layer(chain, set())) is not None:
                    broken.add(above.name)
                    mended.append(await self._mend(above, broken) if above.repairable else above)
                    if mended[-1].repaired:
                        broken.discard(above.name)
        return mended

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

    async def _layer(self, chain: Digest, damaged: set[str], *, sound: bool = True) -> Finding | None:
        """Look at a layer, and, if what is below it is ``sound``, at its copy of that."""
        if not self._layers.has(chain):
            return None  # removed meanwhile
        self._layers.retain(chain)
        try:
            layer = self._layers.get(chain)
            different = await self._differences(layer, self._blob(layer.diff_id, damaged), copies=sound)
            if not different:
                return None
            shown = ", ".join(different[:_SHOWN]) + (f" and {len(different) - _SHOWN} more" * (len(different) > _SHOWN))
            return Finding("damaged layer", str(chain), layer.size, await self._refusal(layer), detail=shown)
        finally:
            self._bury(self._layers.release(chain))

    def _blob(self, diff_id: Digest, damaged: set[str]) -> Digest | None:
        """Return a kept blob of a layer that is not damaged."""
        for blob in self._kept.layers(diff_id):
            if str(blob.digest) not in damaged and self._kept.content.has(blob.digest):
                return blob.digest
        return None

    def _below(self, chain: Digest) -> Iterator[Digest]:
        parent = self._layers.get(chain).parent if self._layers.has(chain) else None
        while parent is not None:
            yield parent
            parent = self._layers.get(parent).parent

    def _is_sound(self, chain: Digest, broken: set[str]) -> bool:
        """Tell whether all layers below one are known not to be damaged."""
        below = [self._layers.get(one) for one in self._below(chain)]
        return all(
            str(layer.chain) not in broken
            and (self._kept.recipes.has(layer.diff_id) or self._blob(layer.diff_id, set()) is not None)
            for layer in below
        )

    async def _differences(self, layer: Layer, blob: Digest | None, *, copies: bool = True) -> list[str]:
        copies = copies and self._layers.whole
        if blob is None:
            if not self._kept.recipes.has(layer.diff_id):
                return []  # there is nothing to compare with
            try:
                await self._tars.check_recipe(layer.diff_id, layer.chain)
            except DataLossError as error:
                return [str(error)]
            if not copies:
                return []
        view = self._layers.layer_view(layer.chain)
        below = self._layers.layer_view(layer.parent) if copies and layer.parent is not None else None
        stream = (
            self._tars.read(layer.diff_id, layer.chain) if blob is None else read_file(self._kept.content.path(blob))
        )
        try:
            digest, different = await pour(
                stream,
                lambda fd: self._ops.compare(view, fd, self._limits, below=below),
                compressed=blob is not None,
            )
        except (InvalidParameterError, DataLossError) as error:
            return [str(error)]
        if digest != layer.diff_id:
            return ["its blob makes another layer"]
        return different or (await self._init_differences(layer.chain) if copies else [])

    async def _init_differences(self, chain: Digest) -> list[str]:
        """Return what of a layer is not so any more in the init layer that containers are copied from."""
        view = init_view(self._layers, chain)
        if view is None:
            return []
        below = self._layers.layer_view(chain)
        _, different = await pour(
            _nothing(), lambda fd: self._ops.compare(view, fd, self._limits, below=below), compressed=False
        )
        return [one for one in different if one not in _TURNED and not one.startswith(_OWN)]

    async def _refusal(self, layer: Layer) -> str:
        """Say why the layer cannot be made again; empty if it can."""
        if await self._kept.find_intact(layer.diff_id) is None:
            try:
                await self._tars.check_recipe(layer.diff_id, layer.chain)
            except DataLossError:
                return "kept: there is no blob to make it from"
        return "kept: a running container uses it" if self._is_busy(layer.chain) else ""

    def _is_busy(self, chain: Digest) -> bool:
        busy = self._busy()
        return any(str(image.id) in busy for image in self._images.images() if chain in image.config.chain_ids)

    async def _mend(self, finding: Finding, broken: set[str]) -> Finding:
        digest = _digest(finding)
        if not self._layers.has(digest):
            return replace(finding, repaired=True)
        if self._layers.whole and not self._is_sound(digest, broken):
            return replace(finding, note="kept: a layer below it is damaged, or cannot be checked")
        self._layers.retain(digest)
        try:
            layer = self._layers.get(digest)
            if not await self._differences(layer, self._blob(layer.diff_id, set())):
                return replace(finding, repaired=True)  # with one below it
            if note := await self._refusal(layer):
                return replace(finding, note=note)
            await remake(self._layers, digest, lambda tree: self._unpack(layer, tree), self._bury)
            left = await self._differences(layer, self._blob(layer.diff_id, set()))
        except OrlopError as error:
            return replace(finding, note=f"kept: {error}")
        finally:
            self._bury(self._layers.release(digest))
        return replace(finding, repaired=not left, detail=", ".join(left[:_SHOWN]) or finding.detail)

    async def _unpack(self, layer: Layer, tree: OverlayRoot) -> None:
        whole = self._layers.whole
        stream = self._tars.read(layer.diff_id, layer.chain)
        await pour(stream, lambda fd: self._ops.unpack(tree, fd, self._limits, apply=whole), compressed=False)
        if self._is_busy(layer.chain):  # by now
            raise ConflictError("a running container uses it")


def _digest(finding: Finding) -> Digest:
    return Digest(finding.name.removeprefix("sha256:"))


async def _nothing() -> AsyncGenerator[bytes, None]:
    """Return an empty stream."""
    yield b""
