"""What files of contexts hold, as it comes: kept under the digest of what came, whatever it was said to be."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.primitives.owned_fd import OwnedFd

NEW = ".new-"
_HEAD = 40  # of a frame: the digest and the length
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NewContent:
    """One content being received; owns its file until it is whole. Everything blocks."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._hash = hashlib.sha256()
        self._name = f"{root}/{NEW}{secrets.token_hex(8)}"
        self._file: OwnedFd | None = OwnedFd(os.open(self._name, _CREATE, 0o600))

    def write(self, data: bytes) -> None:
        """Take bytes. Raises OSError."""
        self._hash.update(data)
        view = memoryview(data)
        while view and self._file is not None:
            view = view[os.write(self._file.fileno(), view) :]

    def finish(self, expected: str = "") -> str:
        """Give it its name, which is returned: the sha256 in hex.

        Raises:
            InvalidParameterError: it is not what was expected; :meth:`close` then removes it.
            OSError: as of rename(2).
        """
        digest = self._hash.hexdigest()
        if expected and digest != expected:
            raise InvalidParameterError(f"a file of the context changed while it was sent: sha256:{expected}")
        if self._file is not None:
            self._file.close()
            self._file = None
            os.rename(self._name, f"{self._root}/{digest}")
        return digest

    def close(self) -> None:
        """Remove it if it is not whole."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name)


class Receiver:
    """Takes contents as they come: 32 bytes of sha256, 8 of the length (big endian), the bytes; and so on."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._buffer = bytearray()
        self._digest = ""
        self._left = 0
        self._content: NewContent | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes.

        Raises:
            InvalidParameterError: what came is not what its digest says.
            SystemFailureError: no space left on device and the like.
        """
        try:
            self._feed(data)
        except OSError as error:
            raise SystemFailureError(f"receive context: {(error.strerror or '').lower()}") from error

    def _feed(self, data: bytes) -> None:
        self._buffer += data
        while True:
            if self._content is None:
                if len(self._buffer) < _HEAD:
                    return
                self._digest, self._left = self._buffer[:32].hex(), int.from_bytes(self._buffer[32:_HEAD], "big")
                del self._buffer[:_HEAD]
                self._content = NewContent(self._root)
            if self._left:
                piece = bytes(self._buffer[: self._left])
                if not piece:
                    return
                del self._buffer[: len(piece)]
                self._left -= len(piece)
                self._content.write(piece)
            if not self._left:
                self._content.finish(self._digest)
                self._content = None

    def finish(self) -> None:
        """Say that nothing more comes. Raises InvalidParameterError: something is missing."""
        if self._content is not None or self._buffer:
            raise InvalidParameterError("unexpected end of the context's files")

    def close(self) -> None:
        """Remove what is not whole."""
        if self._content is not None:
            self._content.close()
            self._content = None
