"""The content store: bytes by their digest.

::

    <data-root>/blobs/sha256/<hex>        0600, exactly as received or made
    <data-root>/blobs/sha256/.new-<random>    being written

A blob appears by one rename, complete. Configurations and manifests are synced before. Layers are not: a sync of
hundreds of megabytes would be most of a pull, and what a power cut takes of them can be fetched or made again. Whoever
uses a blob checks its digest, so that a damaged one is noticed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING

from orlop.errors import DataLossError, NotFoundError, SystemFailureError
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW = ".new-"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ContentStore:
    """Owns the ``blobs`` directory."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "sha256")
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        for name in os.listdir(self._root):
            if name.startswith(_NEW):
                os.unlink(os.path.join(self._root, name))

    def put(self, data: bytes, *, durable: bool = True) -> Digest:
        """Keep ``data`` and return its digest; having it already is fine.

        Args:
            data: the blob.
            durable: return when its content has reached the disk; else see :meth:`sync`.

        Raises:
            SystemFailureError: no space left on device and the like; nothing is left behind.
        """
        digest = Digest.of(data)
        if self.has(digest):
            return digest
        draft = os.path.join(self._root, _NEW + secrets.token_hex(8))
        try:
            fd = os.open(draft, _CREATE, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(draft, self.path(digest))
        except OSError as error:
            if os.path.lexists(draft):
                os.unlink(draft)
            raise SystemFailureError(f"write blob {digest}: {(error.strerror or '').lower()}") from error
        return digest

    def sync(self, digest: Digest) -> None:
        """Return when a blob's content has reached the disk. Raises SystemFailureError."""
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise SystemFailureError(f"write blob {digest}: {(error.strerror or '').lower()}") from error

    def get(self, digest: Digest, *, limit: int) -> bytes:
        """Return a blob of at most ``limit`` bytes.

        Raises:
            NotFoundError: it is not there.
            DataLossError: it is not what its name says, or larger than ``limit``.
        """
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"content {digest}: not found") from None
        with os.fdopen(fd, "rb") as blob:
            data = blob.read(limit + 1)
        if Digest.of(data) != digest:
            raise DataLossError(f"content {digest} is damaged")
        return data

    def has(self, digest: Digest) -> bool:
        """Tell whether the blob is there."""
        return os.path.exists(self.path(digest))

    def is_sized(self, digest: Digest, size: int) -> bool:
        """Tell whether the blob is there with all its bytes, as far as their number goes."""
        try:
            return os.stat(self.path(digest)).st_size == size
        except OSError:
            return False

    def is_intact(self, digest: Digest, *, uncached: bool = False) -> bool:
        """Tell whether the blob is there and is what its name says. Reads it all: call it from a thread.

        Args:
            digest: the blob's.
            uncached: read what the disk has, not what the kernel remembers of it.
        """
        try:
            with open(self.path(digest), "rb") as blob:
                if uncached:
                    os.posix_fadvise(blob.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return hashlib.file_digest(blob, "sha256").hexdigest() == digest.hex
        except OSError:
            return False

    def remove(self, digest: Digest) -> None:
        """Forget a blob; a missing one is fine."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return

    def digests(self) -> Iterator[Digest]:
        """Yield every blob's digest."""
        for name in os.listdir(self._root):
            if not name.startswith(_NEW):
                yield Digest(name)

    def draft(self, name: str) -> str:
        """Return a path for a blob that is being written; what a crash leaves there goes at the next start."""
        return os.path.join(self._root, _NEW + name)

    def path(self, digest: Digest) -> str:
        """Return where the blob is or would be."""
        return os.path.join(self._root, digest.hex)
