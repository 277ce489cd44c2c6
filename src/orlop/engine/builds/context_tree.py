"""A context's manifest made into a tree: what each file is, and how it is put in place.

A manifest is hostile (threats.md F6): its paths are names below a fresh private directory, each made in the descriptor
of its parent, which the manifest must have named as a directory before.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Literal

import msgspec

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel.openat2 import RESOLVE_NO_SYMLINKS
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root
from orlop.primitives.tar.rules import is_kept_xattr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PIECE = 1 << 20
_LONGEST = 4000  # bytes of a path that is opened at once, less than PATH_MAX
_NAMES = 15  # of the longest names that fit
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One file of a context.

    Attributes:
        path: relative; each byte of it as the character of that number (Latin-1), since names need not be UTF-8.
        kind: directory, file, link, or named pipe.
        mode: permission bits.
        mtime: nanoseconds since the epoch.
        size: of a file.
        text: a file's sha256 in hex; a link's target, written as the path is.
        xattrs: extended attributes; the values in hex.
    """

    path: str
    kind: Literal["d", "f", "l", "p"]
    mode: int
    mtime: int
    size: int = 0
    text: str = ""
    xattrs: dict[str, str] = {}


def lay_out(contents: str, entries: Sequence[Entry], target: str) -> None:
    """Make a tree in an empty private directory; blocks.

    Args:
        contents: directory of what files hold, each under its sha256.
        entries: that have been checked (``context_files.check_entry``).
        target: the directory.

    Raises:
        InvalidParameterError: a file in what is no directory, or twice.
        SystemFailureError: a content is not here, no space left on device, and the like.
    """
    try:
        with OwnedFd(os.open(target, _DIRECTORY)) as root:
            _Tree(contents, root.fileno()).make(entries)
    except OSError as error:
        raise SystemFailureError(f"lay out context: {(error.strerror or '').lower()}") from error


class _Tree:
    """A context being laid out; keeps the descriptor of the last directory alone, however deep a hostile one is."""

    def __init__(self, contents: str, root_fd: int) -> None:
        self._contents = contents
        self._path: Sequence[bytes] = ()
        self._directory: OwnedFd | None = None  # what is at the path; None at the root
        self._root_fd = root_fd

    def make(self, entries: Sequence[Entry]) -> None:
        directories: list[Entry] = []
        try:
            for entry in sorted(entries, key=lambda entry: entry.path.split("/")):
                *above, name = entry.path.encode("latin-1").split(b"/")
                parent = self._enter(above)
                try:
                    self._make_one(entry, parent, name)
                except FileExistsError:
                    raise InvalidParameterError(f"twice in the context: {entry.path[:200]!r}") from None
                if entry.kind == "d":
                    directories.append(entry)
            # Last, since what is made in a directory changes its time; the deepest first, since modes may shut it.
            for entry in reversed(directories):
                *above, name = entry.path.encode("latin-1").split(b"/")
                with OwnedFd(os.open(name, _DIRECTORY, dir_fd=self._enter(above))) as fd:
                    _finish(fd.fileno(), entry)
        finally:
            self._leave()

    def _enter(self, names: Sequence[bytes]) -> int:
        """Return the descriptor of a directory, which is good until the next call."""
        if names == self._path:
            return self._root_fd if self._directory is None else self._directory.fileno()
        below, directory = names, None
        if self._directory is not None and names[:-1] == self._path:
            below, directory, self._directory = names[-1:], self._directory, None
        self._leave()
        try:
            step = len(below) if sum(map(len, below)) + len(below) < _LONGEST else _NAMES
            for start in range(0, len(below), step or 1):
                above, part = directory, b"/".join(below[start : start + step])
                at = self._root_fd if above is None else above.fileno()
                try:
                    directory = open_in_root(at, part, _DIRECTORY, extra_resolve=RESOLVE_NO_SYMLINKS)
                finally:
                    if above is not None:
                        above.close()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            raise InvalidParameterError(f"no directory in the context: {b'/'.join(names)[:200]!r}") from None
        self._path, self._directory = names, directory
        return self._root_fd if directory is None else directory.fileno()

    def _leave(self) -> None:
        self._path = ()
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    def _make_one(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.kind == "d":
            os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.kind == "l":
            os.symlink(entry.text.encode("latin-1"), name, dir_fd=parent)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        elif entry.kind == "p":
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chmod(name, entry.mode, dir_fd=parent)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent)
        else:
            with OwnedFd(os.open(name, _CREATE, 0o600, dir_fd=parent)) as out:
                self._copy(entry, out.fileno())
                _finish(out.fileno(), entry)

    def _copy(self, entry: Entry, out_fd: int) -> None:
        try:
            source = OwnedFd(os.open(f"{self._contents}/{entry.text}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileNotFoundError:
            raise SystemFailureError(f"the context's content is not here: {entry.path[:200]!r}") from None
        with source:
            if os.fstat(source.fileno()).st_size != entry.size:
                raise SystemFailureError(f"the context's content has another size: {entry.path[:200]!r}")
            left = entry.size
            while left:
                try:
                    done = os.copy_file_range(source.fileno(), out_fd, min(left, 1 << 30))
                except OSError:
                    done = _copy_piece(source.fileno(), out_fd)  # another file system
                if not done:
                    break
                left -= done


def _copy_piece(source: int, target: int) -> int:
    data = os.read(source, _PIECE)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)


def _finish(fd: int, entry: Entry) -> None:
    """Give a file what it has beside its content."""
    _set_xattrs(fd, entry.xattrs)
    os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime, entry.mtime))


def _set_xattrs(fd: int, xattrs: Mapping[str, str]) -> None:
    for name, value in xattrs.items():
        if not is_kept_xattr(name.encode("utf-8", "surrogateescape")):
            raise InvalidParameterError(f"invalid extended attribute in a context: {name[:80]!r}")
        try:
            data = bytes.fromhex(value)
        except ValueError:
            raise InvalidParameterError(f"invalid extended attribute in a context: {name[:80]!r}") from None
        os.setxattr(fd, name, data)
