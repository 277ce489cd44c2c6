"""Compare an unpacked layer with the tar it was made of: what a disk or a hand has changed since.

Looked at are kind, mode, owner, size, link target, file capabilities and every byte of every file; not times, and not
what lies there besides. Where the tree is a whole one, a copy of the tree below with the layer's changes, what it has
from there is compared as well. Files are dropped from the page cache before they are read, so that it is the disk that
is compared.

Runs in a forked child of the spawner.
"""

from __future__ import annotations

import os
import stat

from orlop.kernel.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from orlop.primitives.tar.entry import Entry, Kind, Limits, TarError, shown
from orlop.primitives.tar.inherited import Inherited
from orlop.primitives.tar.reader import Signal, TarReader
from orlop.primitives.tar.rules import clean_path
from orlop.primitives.tar.unpack import OPAQUE, WHITEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Differences that are kept: the memory of this child is bounded, whatever the tar holds.
MOST = 1000
_CHUNK = 1 << 18
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_CAPABILITY = "security.capability"
_FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


def compare(root_fd: int, stream_fd: int, limits: Limits | None = None, *, below_fd: int | None = None) -> list[str]:
    """Return what differs, as ``/path: how``, in the tar's order; at most :data:`MOST`.

    Args:
        root_fd: O_RDONLY descriptor of the root whose topmost layer it is.
        stream_fd: an uncompressed tar, read to its end.
        limits: what it was unpacked with.
        below_fd: the tree that it was a copy of, before the layer was applied; None if it is none.

    Raises:
        TarError: the archive is damaged.
        OSError: a tree is deeper than is sane.
    """
    comparer = _Comparer(root_fd, limits or Limits(), below_fd)
    try:
        while data := os.read(stream_fd, _CHUNK):
            comparer.feed(data)
        return comparer.finish()
    finally:
        comparer.close()


class _Comparer:
    def __init__(self, root_fd: int, limits: Limits, below_fd: int | None) -> None:
        self._root_fd = root_fd
        self._below_fd = below_fd
        self._inherited = None if below_fd is None else Inherited()
        self._limits = limits
        self._reader = TarReader(limits)
        # By path: of a member that comes twice only the last one counts, and nothing below one that was replaced.
        self._differences: dict[bytes, str] = {}
        self._path = b""
        self._fd = -1  # the file whose payload is coming; -1 when it differs already
        self._regions: Iterator[tuple[int, int]] = iter(())
        self._offset = 0
        self._left = 0  # bytes of the region

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)
        self._run()

    def finish(self) -> list[str]:
        self._reader.finish()
        self._run()
        self.close()
        if self._inherited is not None and self._below_fd is not None:
            for path, how in self._inherited.differences(self._root_fd, self._below_fd):
                if len(self._differences) >= MOST:
                    break
                self._differences.setdefault(path, how)
        return [f"/{shown(path)}: {how}" for path, how in self._differences.items()]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        while True:
            event = self._reader.next_event()
            if isinstance(event, Signal):
                return
            if isinstance(event, Entry):
                self.close()
                self._begin(event)
            elif self._fd >= 0:
                self._compare(event)

    def _begin(self, entry: Entry) -> None:
        self._path = path = clean_path(entry.name, self._limits)
        if not path or path.rpartition(b"/")[2].startswith(WHITEOUT):
            self._hide(path)
            return
        if self._differences:
            self._forget(path, below=entry.kind is not Kind.DIRECTORY)
        try:
            how = self._difference(entry, path)
        except OSError as error:
            how = (error.strerror or "").lower()
        if how:
            self._differ(how)

    def _hide(self, path: bytes) -> None:
        head, _, name = path.rpartition(b"/")
        if self._inherited is None or not name:
            return
        try:
            fd = openat2(self._root_fd, head or b".", _DIRECTORY, resolve=_RESOLVE)
        except OSError:
            return  # there is nothing that could be hidden
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if name == OPAQUE:
            self._inherited.clear(status)
        else:
            self._inherited.hide(status, name.removeprefix(WHITEOUT))

    def _forget(self, path: bytes, *, below: bool) -> None:
        self._differences.pop(path, None)
        if below:
            for known in [known for known in self._differences if known.startswith(path + b"/")]:
                del self._differences[known]

    def _differ(self, how: str) -> None:
        if len(self._differences) < MOST:
            self._differences[self._path] = how
        self.close()

    def _difference(self, entry: Entry, path: bytes) -> str:
        """Say how what is there differs from the member; opens a file whose content is to come."""
        fd = openat2(self._root_fd, path, _PATH, resolve=_RESOLVE)
        try:
            status = os.fstat(fd)
            if self._inherited is not None:
                self._inherited.bring(status)
            if entry.kind is Kind.HARD_LINK:
                return "is a directory" if stat.S_ISDIR(status.st_mode) else ""
            if stat.S_IFMT(status.st_mode) != _FORMATS[entry.kind]:
                return "is something else"
            if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
                return f"belongs to {status.st_uid}:{status.st_gid} instead of {entry.uid}:{entry.gid}"
            if entry.kind is Kind.SYMLINK:
                return "" if os.fsencode(os.readlink("", dir_fd=fd)) == entry.target else "leads elsewhere"
        finally:
            os.close(fd)
        if entry.kind is Kind.FILE:
            if status.st_size != entry.real_size:
                return f"has {status.st_size} bytes instead of {entry.real_size}"
            self._open(entry, path)
        if stat.S_IMODE(status.st_mode) != entry.mode and entry.kind in (Kind.FILE, Kind.DIRECTORY):
            return f"has mode {stat.S_IMODE(status.st_mode):04o} instead of {entry.mode:04o}"
        return ""

    def _open(self, entry: Entry, path: bytes) -> None:
        self._fd = openat2(self._root_fd, path, _READ, resolve=_RESOLVE)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._regions = iter(entry.sparse if entry.sparse is not None else ((0, entry.size),))
        self._left = 0
        capability = entry.xattrs.get(_CAPABILITY.encode())
        if capability is not None and os.getxattr(self._fd, _CAPABILITY) != capability:
            self._differ("has other capabilities")

    def _compare(self, piece: memoryview) -> None:
        while piece:
            while not self._left:
                self._offset, self._left = next(self._regions)
            try:
                data = os.pread(self._fd, min(len(piece), self._left), self._offset)
            except OSError as error:  # a disk that cannot read it
                self._differ((error.strerror or "").lower())
                return
            if not data or piece[: len(data)] != data:
                self._differ("has another content")
                return
            self._offset += len(data)
            self._left -= len(data)
            piece = piece[len(data) :]


__all__ = ["MOST", "TarError", "compare"]
