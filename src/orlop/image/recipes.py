"""Recipes of layers whose tar is not kept: how to write it again (``primitives.tar.recipe``).

::

    <data-root>/blobs/recipes/<diff id's hex>    0600, gzip
    <data-root>/blobs/recipes/.new-<random>      being written, not compressed

A recipe is worth nothing without the layer's files and is checked by the digest of what comes out, so it is not synced
on its own: after a power cut a lost one only means that the layer cannot be saved or pushed.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from orlop.errors import DataLossError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.image.compression import Decompressor, gzip_compressor
from orlop.primitives.tar.recipe import measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.spec.digest import Digest

_NEW = ".new-"
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 18


class RecipeDraft:
    """A recipe being written; owns its descriptor and, until :meth:`finish`, its file."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._name = os.path.join(root, _NEW + secrets.token_hex(8))
        try:
            self.fd = os.open(self._name, _CREATE, 0o600)
        except OSError as error:
            raise SystemFailureError(f"write recipe: {(error.strerror or '').lower()}") from error

    def finish(self, diff_id: Digest) -> None:
        """Compress it and give it its name. Raises SystemFailureError (no space left on device)."""
        packed = self._name + ".gz"
        try:
            out = os.open(packed, _CREATE, 0o600)
            try:
                for piece in self._compressed():
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(out, view) :]
            finally:
                os.close(out)
            os.rename(packed, os.path.join(self._root, diff_id.hex))
        except OSError as error:
            if os.path.lexists(packed):
                os.unlink(packed)
            raise SystemFailureError(f"write recipe: {(error.strerror or '').lower()}") from error

    def _compressed(self) -> Iterator[bytes]:
        compressor = gzip_compressor()
        offset = 0
        while data := os.pread(self.fd, _CHUNK, offset):
            offset += len(data)
            yield compressor.compress(data)
        yield compressor.flush()

    def close(self) -> None:
        """Close and remove what was not finished."""
        os.close(self.fd)
        os.unlink(self._name)


class RecipeStore:
    """Owns the directory drawn above."""

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "recipes")
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        for name in os.listdir(self._root):
            if name.startswith(_NEW):
                os.unlink(os.path.join(self._root, name))

    def begin(self) -> RecipeDraft:
        """Start a recipe. Raises SystemFailureError."""
        return RecipeDraft(self._root)

    def has(self, diff_id: Digest) -> bool:
        """Tell whether there is one."""
        return os.path.exists(os.path.join(self._root, diff_id.hex))

    def open(self, diff_id: Digest) -> int:
        """Return a descriptor of the recipe, not compressed, at its beginning; the caller closes it.

        Reads and writes files: call it from a thread.

        Raises:
            NotFoundError: there is none.
            DataLossError: it is damaged.
            SystemFailureError: no space left on device.
        """
        try:
            packed = open(os.path.join(self._root, diff_id.hex), "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            raise NotFoundError(f"recipe of layer {diff_id}: not found") from None
        with packed:
            fd = os.open(self._root, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            try:
                decompressor = Decompressor()
                while data := packed.read(_CHUNK):
                    for piece in decompressor.feed(data):
                        os.write(fd, piece)
                for piece in decompressor.finish():
                    os.write(fd, piece)
                os.lseek(fd, 0, os.SEEK_SET)
            except BaseException as error:
                os.close(fd)
                if isinstance(error, OSError):
                    raise SystemFailureError(f"read recipe: {(error.strerror or '').lower()}") from error
                if isinstance(error, InvalidParameterError):
                    raise DataLossError(f"recipe of layer {diff_id} is damaged") from None
                raise
        return fd

    def tar_size(self, diff_id: Digest) -> int:
        """Return the size of the tar that a recipe makes, in bytes. Call it from a thread; raises as :meth:`open`."""
        fd = self.open(diff_id)
        try:
            return measure(fd)
        finally:
            os.close(fd)

    def remove(self, diff_id: Digest) -> None:
        """Forget a recipe; a missing one is fine."""
        try:
            os.unlink(os.path.join(self._root, diff_id.hex))
        except FileNotFoundError:
            return

    def path(self, diff_id: Digest) -> str:
        """Return where the recipe is or would be."""
        return os.path.join(self._root, diff_id.hex)

    def names(self) -> list[str]:
        """Return the hex of every diff id that has a recipe."""
        return [name for name in os.listdir(self._root) if not name.startswith(_NEW)]
