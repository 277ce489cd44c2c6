"""Blobs on their way in: what was received is kept, so that a cut, or a crash, costs no byte twice.

::

    <data-root>/blobs/partial/<hex of the digest it should have>    0600, the first bytes of the blob

A partial blob becomes a blob by a rename, synced and verified. Others may read it while it grows; they are told when
it starts again from nothing, and that it ended only after its digest was verified.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.image.feed import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orlop.image.content import ContentStore
    from orlop.spec.digest import Digest

_CHUNK = 1 << 20
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
KEPT_SECONDS = 7 * 86400.0


class RestartedError(OrlopError):
    """The blob that was being read began again: forget what was read."""


class PartialBlob:
    """A growing blob. Owns its descriptor; closed by :meth:`close`.

    Attributes:
        digest: what it should have.
        size: bytes received.
    """

    def __init__(self, path: str, digest: Digest, content: ContentStore) -> None:
        try:
            self._fd = os.open(path, _OPEN, 0o600)
        except OSError as error:
            raise SystemFailureError(f"write blob {digest}: {(error.strerror or '').lower()}") from error
        self._path = path
        self._content = content
        self.digest = digest
        self.size = 0
        self._hash = hashlib.sha256()
        self._generation = 0
        self._finished = False
        self._closed = False
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()

    async def resume(self) -> None:
        """Take over what an earlier attempt received; call before anything else."""
        self.size = await in_thread(self._read_all, None)
        self._notify()

    def _read_all(self, _: None) -> int:
        offset = 0
        while data := os.pread(self._fd, _CHUNK, offset):
            self._hash.update(data)
            offset += len(data)
        return offset

    async def write(self, data: bytes) -> None:
        """Take the next bytes. Raises SystemFailureError (no space left on device)."""
        await in_thread(self._write, data)
        self.size += len(data)
        self._notify()

    def _write(self, data: bytes) -> None:
        view, offset = memoryview(data), self.size
        try:
            while view:
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise SystemFailureError(f"write blob {self.digest}: {(error.strerror or '').lower()}") from error
        self._hash.update(data)

    def reset(self) -> None:
        """Forget all bytes."""
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._hash = hashlib.sha256()
        self._generation += 1
        self._notify()

    def is_whole(self) -> bool:
        """Tell whether what was received has the digest."""
        return self._hash.hexdigest() == self.digest.hex

    async def finish(self) -> None:
        """Make it a blob. Raises InvalidParameterError if it is not whole; SystemFailureError."""
        if not self.is_whole():
            raise InvalidParameterError(f"filesystem layer verification failed for digest {self.digest}")
        await in_thread(self._keep, None)
        self._finished = True
        self._notify()

    def _keep(self, _: None) -> None:
        try:
            os.fsync(self._fd)
            os.rename(self._path, self._content.path(self.digest))
        except OSError as error:
            raise SystemFailureError(f"write blob {self.digest}: {(error.strerror or '').lower()}") from error

    def fail(self, error: BaseException) -> None:
        """Tell readers that no more will come."""
        self._failure = error
        self._notify()

    def close(self) -> None:
        """Close the descriptor; an empty one leaves no file."""
        self._closed = True
        self._notify()
        os.close(self._fd)
        if not self.size and not self._finished:
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, consumed: Callable[[int], None] | None = None) -> AsyncIterator[bytes]:
        """Yield all bytes, as they come. Ends only after :meth:`finish`.

        Args:
            consumed: is told how many bytes were yielded.

        Raises:
            RestartedError: begin again, with the finished blob or with another attempt.
            BaseException: what :meth:`fail` was told.
        """
        if self._closed:
            raise RestartedError("blob is not being received any more")
        fd = os.dup(self._fd)
        generation, position = self._generation, 0
        try:
            while True:
                if self._generation != generation:
                    raise RestartedError("blob began again")
                if position < self.size:
                    data = await in_thread(_Part(fd, min(_CHUNK, self.size - position)).read, position)
                    position += len(data)
                    yield data
                    if consumed is not None:
                        consumed(position)
                elif self._failure is not None:
                    raise self._failure
                elif self._finished:
                    return
                else:
                    await self._changed.wait()
        finally:
            os.close(fd)


class _Part:
    """One read of a descriptor, for a thread."""

    def __init__(self, fd: int, count: int) -> None:
        self._fd = fd
        self._count = count

    def read(self, position: int) -> bytes:
        return os.pread(self._fd, self._count, position)


class PartialStore:
    """Owns the directory drawn above."""

    def __init__(self, root: str, content: ContentStore) -> None:
        self._root = os.path.join(root, "partial")
        self._content = content
        os.makedirs(self._root, mode=0o700, exist_ok=True)

    def open(self, digest: Digest) -> PartialBlob:
        """Open the partial blob, with what is there of it. One at a time for each digest."""
        return PartialBlob(os.path.join(self._root, digest.hex), digest, self._content)

    def sweep(self, *, seconds: float = KEPT_SECONDS, busy: frozenset[Digest] = frozenset()) -> int:
        """Remove what nobody continued for ``seconds``; returns the bytes given back."""
        freed, now = 0, time.time()
        for name in os.listdir(self._root):
            path = os.path.join(self._root, name)
            status = os.stat(path)
            if now - status.st_mtime >= seconds and name not in {digest.hex for digest in busy}:
                os.unlink(path)
                freed += status.st_size
        return freed


async def read_file(path: str, consumed: Callable[[int], None] | None = None) -> AsyncIterator[bytes]:
    """Yield a kept blob's bytes. Raises SystemFailureError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailureError(f"read blob: {(error.strerror or '').lower()}") from error
    position = 0
    try:
        while data := await in_thread(_Part(fd, _CHUNK).read, position):
            position += len(data)
            yield data
            if consumed is not None:
                consumed(position)
    finally:
        os.close(fd)
