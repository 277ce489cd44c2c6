"""The tar of a layer, byte for byte as its diff id has it: out of the kept blob, or by its recipe.

A blob that is damaged is not used: none of its bytes are given to anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Protocol

from orlop.errors import DataLossError, NotFoundError, OrlopError
from orlop.image.compression import Decompressor
from orlop.image.feed import in_thread
from orlop.image.growing import read_file
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from orlop.image.kept import KeptBlobs
    from orlop.spec.launch import OverlayRoot

_PIPE = 1 << 20


class RebuildOps(Protocol):
    """Work on trees, done in children of the spawner."""

    async def rebuild(self, overlay: OverlayRoot, recipe_fd: int, *, out_fd: int) -> int:
        """Write the tar that the top layer was unpacked from; the descriptors stay the caller's."""
        ...


class LayerTars:
    """Owns no state.

    Args:
        kept: blobs and recipes.
        ops: writes tars by their recipe.
        view: returns how to mount a layer, by its chain id.
    """

    def __init__(self, kept: KeptBlobs, ops: RebuildOps, view: Callable[[Digest], OverlayRoot]) -> None:
        self._kept = kept
        self._ops = ops
        self._view = view

    async def read(self, diff_id: Digest, chain: Digest) -> AsyncGenerator[bytes, None]:
        """Yield the tar of the layer ``chain``, not compressed.

        Raises:
            DataLossError: neither way gives the right bytes; told at the end if not before.
        """
        blob = await self._kept.find_intact(diff_id)
        source = self._rebuilt(diff_id, chain) if blob is None else self._decompressed(blob.digest)
        digest = hashlib.sha256()
        async with contextlib.aclosing(source):
            async for piece in source:
                await in_thread(digest.update, piece)
                yield piece
        if digest.hexdigest() != diff_id.hex:
            raise DataLossError(f"layer {diff_id} is damaged")

    async def size(self, diff_id: Digest, chain: Digest) -> int:
        """Return the bytes of the tar.

        Raises:
            DataLossError: as :meth:`read`.
        """
        if self._kept.recipes.has(diff_id):
            return await in_thread(self._kept.recipes.tar_size, diff_id)
        total = 0
        async for piece in self.read(diff_id, chain):
            total += len(piece)
        return total

    async def check_recipe(self, diff_id: Digest, chain: Digest) -> None:
        """Write the tar by its recipe, for nobody. Raises DataLossError: the files are not what they were."""
        digest = hashlib.sha256()
        async with contextlib.aclosing(self._rebuilt(diff_id, chain)) as source:
            async for piece in source:
                await in_thread(digest.update, piece)
        if digest.hexdigest() != diff_id.hex:
            raise DataLossError("the files are not those that it was made of")

    async def _decompressed(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        decompressor = Decompressor()
        async for data in read_file(self._kept.content.path(digest)):
            for piece in await in_thread(lambda data: list(decompressor.feed(data)), data):
                yield piece
        for piece in decompressor.finish():
            yield piece

    async def _rebuilt(self, diff_id: Digest, chain: Digest) -> AsyncGenerator[bytes, None]:
        try:
            recipe = await in_thread(self._kept.recipes.open, diff_id)
        except NotFoundError:
            raise DataLossError(f"layer {diff_id} can't be written: its archive was not kept") from None
        reader, writer = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        task = asyncio.ensure_future(self._ops.rebuild(self._view(chain), recipe, out_fd=writer))
        # As long as this process holds the writing end, there is no end of file.
        task.add_done_callback(lambda _: os.close(writer))
        try:
            while data := await in_thread(_read, reader):
                yield data
            await task
        finally:
            os.close(reader)
            os.close(recipe)
            if not task.done():
                with contextlib.suppress(OrlopError):  # the child finds nobody reading
                    await asyncio.shield(task)


def _read(fd: int) -> bytes:
    return os.read(fd, _PIPE)


def diff_id_of(path: str) -> Digest:
    """Return the digest of what a blob is when it is not compressed. Call it from a thread.

    Raises:
        InvalidParameterError: damaged.
    """
    decompressor = Decompressor()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_PIPE):
            for piece in decompressor.feed(data):
                digest.update(piece)
    for piece in decompressor.finish():
        digest.update(piece)
    return Digest(digest.hexdigest())
