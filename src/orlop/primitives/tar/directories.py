"""Open directories of a tree that is being unpacked, by their path inside it.

Every path is resolved by the kernel with the tree as its root (openat2, RESOLVE_IN_ROOT): ``..`` and links, absolute
ones too, never lead out (threats.md D6, E1). Descriptors are kept, so that a directory's members cost one look-up.
A kept descriptor would outlive its path when something is removed or replaced: whoever does that calls
:meth:`forget`.
"""

from __future__ import annotations

import errno
import os

from orlop.kernel.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2
from orlop.primitives.tar.entry import TarError, shown

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_IMPLIED_MODE = 0o755
_KEPT = 200
_RACE_RETRIES = 128


class Directories:
    """Owns the descriptors of recently used directories; the root's is the caller's."""

    def __init__(self, root_fd: int, *, cross: bool = False, owner: tuple[int, int] | None = (0, 0)) -> None:
        self._root_fd = root_fd
        self._resolve = _RESOLVE if cross else _RESOLVE | RESOLVE_NO_XDEV
        self._owner = owner  # of implied directories; None leaves what the kernel gives
        self._fds: dict[bytes, int] = {}

    def open(self, path: bytes) -> int:
        """Return an O_PATH descriptor of the directory, made with its parents if missing; it stays this object's.

        Args:
            path: clean and relative; empty for the root.

        Raises:
            TarError: something on the way is not a directory, or links go in circles.
            OSError: anything else.
        """
        if not path:
            return self._root_fd
        fd = self._fds.pop(path, None)
        if fd is None:
            fd = self._find(path)
            if fd is None:
                fd = self._make(path)
            self._make_room()
        self._fds[path] = fd  # last in the dictionary: most recently used
        return fd

    def _find(self, path: bytes) -> int | None:
        try:
            return self._open(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                raise TarError(f"invalid path in archive: {shown(path)}: {(error.strerror or '').lower()}") from None
            raise

    def _open(self, path: bytes) -> int:
        for _ in range(_RACE_RETRIES):
            try:
                return openat2(self._root_fd, path, _DIRECTORY, resolve=self._resolve)
            except BlockingIOError:
                continue  # renames elsewhere make ".." of a link uncertain (openat2(2), EAGAIN)
        return openat2(self._root_fd, path, _DIRECTORY, resolve=self._resolve)

    def keep(self, path: bytes, fd: int) -> None:
        """Take over a descriptor of the directory at ``path``."""
        replaced = self._fds.pop(path, None)
        if replaced is not None:
            os.close(replaced)
        self._make_room()
        self._fds[path] = fd

    def _make_room(self) -> None:
        if len(self._fds) >= _KEPT:
            os.close(self._fds.pop(next(iter(self._fds))))

    def _make(self, path: bytes) -> int:
        parent = os.dup(self._root_fd)
        parts = path.split(b"/")
        try:
            for count, part in enumerate(parts, 1):
                prefix = b"/".join(parts[:count])
                fd = self._find(prefix)
                if fd is None:
                    fd = self._make_one(parent, part, prefix)
                os.close(parent)
                parent = fd
        except BaseException:
            os.close(parent)
            raise
        return parent

    def _make_one(self, parent: int, name: bytes, path: bytes) -> int:
        try:
            os.mkdir(name, _IMPLIED_MODE, dir_fd=parent)
        except FileExistsError:
            # A link that points nowhere: Docker's mkdir fails on it as well.
            raise TarError(f"invalid path in archive: {shown(path)}: not a directory") from None
        if self._owner is not None:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)

    def forget(self) -> None:
        """Close everything that is kept."""
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)
