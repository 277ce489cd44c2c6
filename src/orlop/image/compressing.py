"""Make a blob of a layer's tar: gzip, as Docker pushes it; the same tar gives the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.image.compression import gzip_compressor
from orlop.image.feed import in_thread
from orlop.spec.digest import Digest
from orlop.spec.manifest import DOCKER_LAYER, Descriptor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orlop.image.content import ContentStore

_BATCH = 1 << 20


class _Writer:
    """Compresses into a file of the content store, in a thread; owns descriptor and file until it is kept."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self.path = content.draft(secrets.token_hex(8))
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemFailureError(f"write blob: {(error.strerror or '').lower()}") from error
        self._hash = hashlib.sha256()
        self._size = 0
        self._compressor = gzip_compressor()

    def feed(self, data: bytes) -> None:
        self._put(self._compressor.compress(data))

    def finish(self, _: None) -> Descriptor:
        self._put(self._compressor.flush())
        digest = Digest(self._hash.hexdigest())
        os.rename(self.path, self._content.path(digest))
        return Descriptor(DOCKER_LAYER, digest, self._size)

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        os.close(self._fd)
        if os.path.lexists(self.path):
            os.unlink(self.path)


async def compress(content: ContentStore, tar: AsyncIterator[bytes], made: Callable[[int], None]) -> Descriptor:
    """Compress a layer into the content store.

    Args:
        content: gets the blob.
        tar: the layer's bytes. What it raises is raised, and nothing is kept.
        made: is told how many bytes of the tar are done.

    Raises:
        SystemFailureError: no space left on device and the like.
    """
    writer = _Writer(content)
    done = 0
    try:
        async for piece in tar:
            await in_thread(writer.feed, piece)
            done += len(piece)
            made(done)
        return await in_thread(writer.finish, None)
    except OSError as error:
        raise SystemFailureError(f"write blob: {(error.strerror or '').lower()}") from error
    finally:
        await asyncio.shield(in_thread(lambda _: writer.close(), None))
