"""What a client's files were when they were received, so that one that is still the same need not travel again.

BuildKit's clients tell no digest of a file, only what lstat(2) says of it. A file is taken for the same when all that
BuildKit itself compares is equal (its ``DiffMetadata``): path, mode, owner, size, time to the nanosecond. One that
could be written again without its time changing is not remembered: it was written when it was about to be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PREFIX = "seen-"
_NEW = ".new-"  # which the next start removes
_MOST = 100  # directories
_BYTES = 256 << 20  # of what is known of all of them
_BILLION = 1_000_000_000
# How long after its time a file could be written without getting another one: a tick of the kernel, or what a file
# system without fractions of a second counts in (FAT: two seconds).
_TICK, _COARSE = _BILLION // 50, 2 * _BILLION


class SeenFile(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A regular file and what it held.

    Attributes:
        path: as an entry of a manifest has it.
        mode: with its kind, as the client tells it.
        owner: user and group.
        size: in bytes.
        mtime: in nanoseconds since the epoch.
        digest: sha256 in hex.
    """

    path: str
    mode: int
    owner: tuple[int, int]
    size: int
    mtime: int
    digest: str

    def is_settled(self, moment: int) -> bool:
        """Tell whether it cannot have been written after ``moment`` (nanoseconds) without its time telling so."""
        return self.mtime < moment - (_TICK if self.mtime % _BILLION else _COARSE)


class SeenFiles:
    """Keeps what is known of directories, each in a file; all methods block. Nothing of it is synced.

    Args:
        root: directory of the contents.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def load(self, key: str) -> Mapping[str, SeenFile]:
        """Return the files of a directory, by path; none if nothing is known of it."""
        try:
            with open(self._path(key), "rb") as file:
                found = msgspec.msgpack.decode(file.read(), type=list[SeenFile])
        except (OSError, msgspec.MsgspecError, ValueError):
            return {}
        return {seen.path: seen for seen in found}

    def keep(self, key: str, files: Iterable[SeenFile]) -> None:
        """Remember the files of a directory instead of what is known of it. Raises OSError."""
        files = list(files)
        if not files:  # of a directory that was made for one build only, as for ``docker build -``
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(key))
            return
        new = f"{self._root}/{_NEW}{secrets.token_hex(8)}"
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(msgspec.msgpack.encode(files))
            os.rename(new, self._path(key))
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise
        self._trim()

    def _path(self, key: str) -> str:
        return f"{self._root}/{PREFIX}{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"

    def _trim(self) -> None:
        """Forget what was kept first, when it is too much."""
        found = sorted(self._found(), key=lambda item: item[1].st_mtime, reverse=True)
        size = 0
        for count, (path, status) in enumerate(found):
            size += status.st_size
            if count >= _MOST or (size > _BYTES and count):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _found(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in os.listdir(self._root):
            if name.startswith(PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    yield f"{self._root}/{name}", os.stat(f"{self._root}/{name}")

    def usage(self) -> int:
        """Return the bytes of all of it."""
        return sum(status.st_size for _, status in self._found())

    def forget(self, before: float | None) -> int:
        """Remove all that was kept before this time (seconds since the epoch; None: ever); returns the bytes."""
        removed = 0
        for path, status in self._found():
            if before is None or status.st_mtime < before:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    removed += status.st_size
        return removed
