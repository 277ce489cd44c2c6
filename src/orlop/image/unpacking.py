"""A layer's stream becomes a layer.

::

    stream ──▶ decompress ──▶ sha256 (the diff id) ──▶ pipe ──▶ unpack, in a child of the spawner
               └───── one batch at a time, in a worker thread ─────┘        │
                                                                            └──▶ recipe (image.recipes)

Nothing is visible until the whole stream has been unpacked and hashed: the layer's directory carries an unfinished
name until then, and whatever fails, the directory goes away and no row is written.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from orlop.errors import InvalidParameterError, OrlopError
from orlop.image.feed import in_thread, pour
from orlop.primitives.tar import Limits, Unpacked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from orlop.image.recipes import RecipeStore
    from orlop.spec.digest import Digest
    from orlop.spec.launch import OverlayRoot


class LayerSink(Protocol):
    """What unpacking needs of the layer store (``storage.layers.LayerStore``)."""

    @property
    def whole(self) -> bool:
        """Whether a layer's directory holds the files of the layers below as well."""
        ...

    async def begin(self, parent: Digest | None) -> tuple[str, OverlayRoot]:
        """Start a layer; return its key and where to unpack it."""
        ...

    async def finish(self, key: str, diff_id: Digest, parent: Digest | None, *, size: int) -> tuple[Digest, list[str]]:
        """Make it real; return the chain id, retained for the caller, and tombstones."""
        ...

    def abandon(self, key: str) -> list[str]:
        """Drop it; return tombstones."""
        ...

    def release(self, chain: Digest) -> list[str]:
        """Give a retained layer back; return tombstones."""
        ...


class TreeOps(Protocol):
    """Work on trees, done in children of the spawner (docs/concepts/processes.md)."""

    def unpack(
        self, root: OverlayRoot, stream_fd: int, limits: Limits, *, apply: bool = False, recipe_fd: int | None = None
    ) -> Coroutine[None, None, Unpacked]:
        """Unpack an uncompressed tar stream into a tree; the descriptors stay the caller's."""
        ...

    async def remove_tree(self, path: str) -> None:
        """Remove a directory with all below it."""
        ...


class LayerUnpacker:
    """Owns no state.

    Args:
        layers: gets the layers.
        ops: unpacks and removes.
        recipes: where the recipe of a layer goes whose blob is not kept; None for nowhere.
        limits: what an archive may ask for.
    """

    def __init__(
        self,
        layers: LayerSink,
        ops: TreeOps,
        *,
        recipes: RecipeStore | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._layers = layers
        self._ops = ops
        self._recipes = recipes
        self._limits = limits or Limits()

    async def run(
        self,
        stream: AsyncIterator[bytes],
        *,
        parent: Digest | None = None,
        expected: Digest | None = None,
        record: bool = True,
        compressed: bool = True,
    ) -> tuple[Digest, Digest]:
        """Make a layer of the stream.

        Args:
            stream: a tar, compressed or not. What it raises is raised, and nothing is made.
            parent: the chain id of the layer below.
            expected: the diff id that it must have.
            record: keep the recipe of its tar; not needed for a layer whose blob is kept.
            compressed: undo the compression that the first bytes tell.

        Returns:
            The chain id, retained for the caller, and the diff id.

        Raises:
            InvalidParameterError: damaged archive ("unexpected EOF"), or another diff id than expected.
            SystemFailureError: no space left on device and the like.
        """
        key, tree = await self._layers.begin(parent)
        draft = self._recipes.begin() if self._recipes is not None and record else None
        try:
            recipe_fd = None if draft is None else draft.fd
            diff_id, unpacked = await pour(
                stream,
                lambda fd: self._ops.unpack(tree, fd, self._limits, apply=self._layers.whole, recipe_fd=recipe_fd),
                compressed=compressed,
            )
            if expected is not None and diff_id != expected:
                raise InvalidParameterError(f"layers from manifest don't match image configuration: {diff_id}")
            if draft is not None and unpacked.recipe:
                await in_thread(draft.finish, diff_id)
            chain, tombstones = await self._layers.finish(key, diff_id, parent, size=unpacked.size)
        except BaseException:
            await asyncio.shield(self._bury(self._layers.abandon(key)))
            raise
        finally:
            if draft is not None:
                draft.close()
        await self._bury(tombstones)
        return chain, diff_id

    async def _bury(self, tombstones: Sequence[str]) -> None:
        for path in tombstones:
            with contextlib.suppress(OrlopError):  # what is left is removed at the next start
                await self._ops.remove_tree(path)
