"""What a whole tree has of the tree below it, compared with that: what no layer brought or hid is the same.

Both hold what strangers made: no link is followed, no device opened. What the layer brought and hid is known by inodes,
since its names may lead through links.
"""

from __future__ import annotations

import os
import stat

from orlop.primitives.difference import MAX_DEPTH, capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK = 1 << 20
_Inode = tuple[int, int]


class Inherited:
    """Remembers what a layer did to a tree."""

    def __init__(self) -> None:
        self._brought: set[_Inode] = set()
        self._hidden: set[tuple[_Inode, bytes]] = set()
        self._cleared: set[_Inode] = set()

    def bring(self, status: os.stat_result) -> None:
        """Note that the layer has this file."""
        self._brought.add(_inode(status))

    def hide(self, directory: os.stat_result, name: bytes) -> None:
        """Note that the layer hides what was there by this name."""
        self._hidden.add((_inode(directory), name))

    def clear(self, directory: os.stat_result) -> None:
        """Note that the layer hides all that was in this directory."""
        self._cleared.add(_inode(directory))

    def differences(self, root_fd: int, below_fd: int) -> Iterator[tuple[bytes, str]]:
        """Yield path and difference of what the tree should have from below; the content, too, is read from the disk.

        Raises:
            OSError: a tree is deeper than is sane.
        """
        yield from self._walk(root_fd, below_fd, b"", 0)

    def _walk(self, above_fd: int, below_fd: int, prefix: bytes, depth: int) -> Iterator[tuple[bytes, str]]:
        here = _inode(os.fstat(above_fd))
        if here in self._cleared:
            return
        if depth > MAX_DEPTH:
            raise OSError(36, "directories too deep")
        for name in sorted(os.fsencode(text) for text in os.listdir(below_fd)):
            if (here, name) in self._hidden:
                continue
            path = prefix + name
            try:
                below = os.stat(name, dir_fd=below_fd, follow_symlinks=False)
                above = os.stat(name, dir_fd=above_fd, follow_symlinks=False)
                if _inode(above) not in self._brought and (how := _difference(above_fd, below_fd, name, above, below)):
                    yield path, how
                    continue
                if not (stat.S_ISDIR(above.st_mode) and stat.S_ISDIR(below.st_mode)):
                    continue
                upper = os.open(name, _DIRECTORY, dir_fd=above_fd)
                try:
                    lower = os.open(name, _DIRECTORY, dir_fd=below_fd)
                    try:
                        yield from self._walk(upper, lower, path + b"/", depth + 1)
                    finally:
                        os.close(lower)
                finally:
                    os.close(upper)
            except OSError as error:  # also of a disk that cannot read it
                yield path, (error.strerror or "").lower()


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino


def _difference(above_fd: int, below_fd: int, name: bytes, above: os.stat_result, below: os.stat_result) -> str:
    """Say how a file differs from the one that it was copied from; not by its times, which unpacking changes."""
    if stat.S_IFMT(above.st_mode) != stat.S_IFMT(below.st_mode) or above.st_rdev != below.st_rdev:
        return "is something else"
    if (above.st_uid, above.st_gid) != (below.st_uid, below.st_gid):
        return f"belongs to {above.st_uid}:{above.st_gid} instead of {below.st_uid}:{below.st_gid}"
    if stat.S_ISLNK(above.st_mode):
        same = os.readlink(name, dir_fd=above_fd) == os.readlink(name, dir_fd=below_fd)
        return "" if same else "leads elsewhere"
    if stat.S_ISREG(above.st_mode):
        if above.st_size != below.st_size:
            return f"has {above.st_size} bytes instead of {below.st_size}"
        if not _same_content(above_fd, below_fd, name):
            return "has another content"
        if capability(above_fd, name) != capability(below_fd, name):
            return "has other capabilities"
    if above.st_mode != below.st_mode:
        return f"has mode {stat.S_IMODE(above.st_mode):04o} instead of {stat.S_IMODE(below.st_mode):04o}"
    return ""


def _same_content(above_fd: int, below_fd: int, name: bytes) -> bool:
    fds: list[int] = []
    try:
        for directory in (above_fd, below_fd):
            fds.append(os.open(name, _FILE, dir_fd=directory))
            os.posix_fadvise(fds[-1], 0, 0, os.POSIX_FADV_DONTNEED)
        while True:
            above, below = (os.read(fd, _CHUNK) for fd in fds)
            if above != below:
                return False
            if not above:
                return True
    finally:
        for fd in fds:
            os.close(fd)
