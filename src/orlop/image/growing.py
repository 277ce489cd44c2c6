"""A file that is read while it grows: bytes that come from a client or registry on one side, unpacked on the other."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

from orlop.errors import OrlopError, SystemFailureError
from orlop.image.feed import in_thread
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

_CHUNK = 1 << 20
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class RestartedError(OrlopError):
    """The file that was being read began again: forget what was read."""


class GrowingFile:
    """Owns a descriptor, until :meth:`close`. What becomes of the file is its user's business.

    Attributes:
        path: the file.
        size: bytes in it.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.size = 0
        self._what = what
        try:
            self._fd = os.open(path, _OPEN, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        self._hash = hashlib.sha256()
        self._generation = 0
        self._finished = False
        self._closed = False
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()

    def _failed(self, error: OSError) -> SystemFailureError:
        return SystemFailureError(f"write {self._what}: {(error.strerror or '').lower()}")

    @property
    def digest_so_far(self) -> Digest:
        """The digest of what is in it."""
        return Digest(self._hash.hexdigest())

    async def resume(self) -> None:
        """Take over what is in the file already; call before anything else."""
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
            raise self._failed(error) from error
        self._hash.update(data)

    def reset(self) -> None:
        """Forget all bytes."""
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._hash = hashlib.sha256()
        self._generation += 1
        self._notify()

    def keep_as(self, path: str) -> None:
        """Give it another name. It is not synced (``image.content``). Raises SystemFailureError."""
        try:
            os.rename(self.path, path)
        except OSError as error:
            raise self._failed(error) from error
        self.path = path

    def _descriptor(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) if self._closed else os.dup(self._fd)

    def end(self) -> None:
        """Tell readers that they have all when they have read all."""
        self._finished = True
        self._notify()

    def fail(self, error: BaseException) -> None:
        """Tell readers that no more will come."""
        self._failure = error
        self._notify()

    @property
    def finished(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._finished

    def close(self) -> None:
        """Close the descriptor; readers that have begun go on, and a finished file is opened again by who reads it."""
        if not self._closed:
            self._closed = True
            self._notify()
            os.close(self._fd)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, consumed: Callable[[int], None] | None = None) -> AsyncGenerator[bytes, None]:
        """Yield all bytes, as they come. Ends only after :meth:`end`.

        Args:
            consumed: is told how many bytes were yielded.

        Raises:
            RestartedError: begin again, with the finished file or with another attempt.
            BaseException: what :meth:`fail` was told.
        """
        if self._closed and not self._finished:
            raise RestartedError(f"{self._what} is not being received any more")
        fd = self._descriptor()
        generation, position = self._generation, 0
        try:
            while True:
                if self._generation != generation:
                    raise RestartedError(f"{self._what} began again")
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


async def read_file(path: str, consumed: Callable[[int], None] | None = None) -> AsyncIterator[bytes]:
    """Yield a file's bytes. Raises SystemFailureError."""
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
