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
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING, Protocol, TypeVar

from orlop.errors import InvalidParameterError, OrlopError
from orlop.image.compression import Decompressor
from orlop.primitives.tar import Limits, Unpacked
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from orlop.image.recipes import RecipeStore

T = TypeVar("T")
U = TypeVar("U")

_BATCH = 1 << 19
_PIPE = 1 << 20


class LayerSink(Protocol):
    """What unpacking needs of the layer store (``storage.layers.LayerStore``)."""

    def begin(self, parent: Digest | None) -> tuple[str, str]:
        """Start a layer; return its key and directory."""
        ...

    def finish(self, key: str, diff_id: Digest, parent: Digest | None, *, size: int) -> tuple[Digest, list[str]]:
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

    async def unpack(self, root: str, stream_fd: int, limits: Limits, *, recipe_fd: int | None = None) -> Unpacked:
        """Unpack an uncompressed tar stream into a directory; the descriptors stay the caller's."""
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
    ) -> tuple[Digest, Digest]:
        """Make a layer of the stream.

        Args:
            stream: a tar, compressed or not. What it raises is raised, and nothing is made.
            parent: the chain id of the layer below.
            expected: the diff id that it must have.
            record: keep the recipe of its tar; not needed for a layer whose blob is kept.

        Returns:
            The chain id, retained for the caller, and the diff id.

        Raises:
            InvalidParameterError: damaged archive ("unexpected EOF"), or another diff id than expected.
            SystemFailureError: no space left on device and the like.
        """
        key, directory = self._layers.begin(parent)
        draft = self._recipes.begin() if self._recipes is not None and record else None
        try:
            diff_id, unpacked = await self._unpack(directory, stream, None if draft is None else draft.fd)
            if expected is not None and diff_id != expected:
                raise InvalidParameterError(f"layers from manifest don't match image configuration: {diff_id}")
            if draft is not None and unpacked.recipe:
                await in_thread(draft.finish, diff_id)
            chain, tombstones = self._layers.finish(key, diff_id, parent, size=unpacked.size)
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

    async def _unpack(
        self, directory: str, stream: AsyncIterator[bytes], recipe_fd: int | None
    ) -> tuple[Digest, Unpacked]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        task = asyncio.ensure_future(self._ops.unpack(directory, reader, self._limits, recipe_fd=recipe_fd))
        # As long as this process holds the reading end, a write to a dead child's pipe would wait for ever.
        task.add_done_callback(lambda _: os.close(reader))
        feed = _Feed(writer)
        try:
            try:
                await feed.run(stream)
            except BrokenPipeError:
                await task  # says why it stopped reading
                raise InvalidParameterError("unexpected end of unpacking") from None
            feed.close()
            unpacked = await task
        except BaseException:
            feed.close()
            if not task.done():
                # The child sees the end of the stream and stops; its error matters less than the first one.
                with contextlib.suppress(OrlopError):
                    await asyncio.shield(task)
            raise
        return Digest(feed.hash.hexdigest()), unpacked


class _Feed:
    """Owns the writing end of the pipe: decompresses, hashes and writes, a batch at a time, in a thread."""

    def __init__(self, fd: int) -> None:
        self.hash = hashlib.sha256()
        self._fd = fd
        self._decompressor = Decompressor()
        with contextlib.suppress(OSError):  # beyond the user's pipe limits the default size does
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def run(self, stream: AsyncIterator[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        async for chunk in stream:
            batch.append(chunk)
            size += len(chunk)
            if size >= _BATCH:
                await in_thread(self._write, b"".join(batch))
                batch, size = [], 0
        await in_thread(self._write_last, b"".join(batch))

    def _write(self, data: bytes) -> None:
        for piece in self._decompressor.feed(data):
            self._put(piece)

    def _write_last(self, data: bytes) -> None:
        self._write(data)
        for piece in self._decompressor.finish():
            self._put(piece)

    def _put(self, piece: bytes) -> None:
        self.hash.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self._fd, view) :]


async def in_thread(function: Callable[[T], U], argument: T) -> U:
    """Run in a worker thread; when cancelled, still wait for it: it uses a descriptor that is about to be closed."""
    future = asyncio.ensure_future(asyncio.to_thread(function, argument))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        with contextlib.suppress(BaseException):
            await future
        raise
