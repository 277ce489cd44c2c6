"""Blobs that no image has: what interrupted pulls left, kept for a while so that they can be continued."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from orlop.image.partial import KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.image.kept import KeptBlobs
    from orlop.image.partial import PartialStore
    from orlop.image.store import ImageStore


class BlobSweeper:
    """Removes blobs without images, but never while one is being made."""

    def __init__(self, images: ImageStore, kept: KeptBlobs, partials: PartialStore) -> None:
        self._images = images
        self._kept = kept
        self._partials = partials
        self._holders = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep everything: a pull, push or load is going on."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1

    def sweep(self, seconds: float = KEPT_SECONDS) -> int:
        """Remove what nobody touched for ``seconds``; returns the bytes given back."""
        if self._holders:
            return 0
        freed, now = self._partials.sweep(seconds=seconds), time.time()
        for digest in self._kept.unreferenced({image.id for image in self._images.images()}):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(self._kept.content.path(digest))
                if now - status.st_mtime >= seconds:
                    self._kept.content.remove(digest)
                    freed += status.st_size
        return freed
