"""Blobs on their way in: what was received is kept, so that a cut, or a crash, costs no byte twice.

::

    <data-root>/blobs/partial/<hex of the digest it should have>    0600, the first bytes of the blob
    <data-root>/blobs/partial/.new-<random>                         a member of an archive that is being loaded

A partial blob becomes a blob by a rename, verified. Others may read it while it grows; they are told when
it starts again from nothing, and that it ended only after its digest was verified. Members of archives end with the
client's request and are removed at the next start if a crash left them.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.image.growing import GrowingFile

if TYPE_CHECKING:
    from orlop.image.content import ContentStore
    from orlop.spec.digest import Digest

KEPT_SECONDS = 7 * 86400.0
_NEW = ".new-"


class PartialBlob(GrowingFile):
    """A growing blob; ``digest`` is what it should have."""

    def __init__(self, path: str, digest: Digest, content: ContentStore) -> None:
        super().__init__(path, f"blob {digest}")
        self._content = content
        self.digest = digest

    def is_whole(self) -> bool:
        """Tell whether what was received has the digest."""
        return self.digest_so_far == self.digest

    def finish(self) -> None:
        """Make it a blob. Raises InvalidParameterError if it is not whole; SystemFailureError."""
        if not self.is_whole():
            raise InvalidParameterError(f"filesystem layer verification failed for digest {self.digest}")
        self.keep_as(self._content.path(self.digest))
        self.end()

    def close(self) -> None:
        """Close the descriptor; an empty one leaves no file."""
        super().close()
        if not self.size and not self.finished:
            with suppress(FileNotFoundError):
                os.unlink(self.path)


class PartialStore:
    """Owns the directory drawn above."""

    def __init__(self, root: str, content: ContentStore) -> None:
        self._root = os.path.join(root, "partial")
        self._content = content
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        for name in os.listdir(self._root):
            if name.startswith(_NEW):
                os.unlink(os.path.join(self._root, name))

    def open(self, digest: Digest) -> PartialBlob:
        """Open the partial blob, with what is there of it. One at a time for each digest."""
        return PartialBlob(os.path.join(self._root, digest.hex), digest, self._content)

    def spool(self) -> GrowingFile:
        """Return a file for a member of an archive; its user removes it."""
        return GrowingFile(os.path.join(self._root, _NEW + secrets.token_hex(16)), "archive")

    def sweep(self, *, seconds: float = KEPT_SECONDS) -> int:
        """Remove what nobody continued for ``seconds``; returns the bytes given back."""
        freed, now = 0, time.time()
        for name in os.listdir(self._root):
            if name.startswith(_NEW):
                continue
            path = os.path.join(self._root, name)
            status = os.stat(path)
            if now - status.st_mtime >= seconds:
                os.unlink(path)
                freed += status.st_size
        return freed
