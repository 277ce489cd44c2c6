"""The layer between an image and its containers that holds the places the engine mounts on.

Docker makes such a layer ("<id>-init") for every container; its content depends only on the image, so here there is one
per image, shared by all containers: creating a container costs nothing for it.

::

    /.dockerenv  /dev/console                                    empty files, 0755
    /etc/hosts  /etc/hostname  /etc/resolv.conf                  empty files, 0755
    /etc/mtab -> /proc/mounts
    /dev/pts  /dev/shm  /proc  /sys                              directories, 0755, where the image has none

A directory that the image has as well keeps the image's owner, mode and times, because overlay shows the topmost
layer's. A link or file of the image where a directory must be is hidden, as Docker does (threats.md B10: nothing the
engine mounts on is ever a link that the image chose).
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from orlop.primitives.removal import remove_entry
from orlop.storage.layered import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FILES = (b".dockerenv", b"dev/console", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf")
_DIRECTORIES = (b"dev/pts", b"dev/shm", b"proc", b"sys")
_LINKS = ((b"etc/mtab", b"/proc/mounts"),)
PLACES = frozenset(f"/{path.decode()}" for path in (*_FILES, *_DIRECTORIES, *(path for path, _ in _LINKS)))
_MODE = 0o755
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(root_fd: int, lower: Sequence[int]) -> None:
    """Fill an empty init layer.

    Args:
        root_fd: its root directory.
        lower: descriptors of the image's layers, topmost first.

    Raises:
        OSError: the file system refused.
    """
    for path in _DIRECTORIES:
        below = look_up(lower, path)
        if below is None or not stat.S_ISDIR(below.st_mode):
            _make_directories(root_fd, lower, path)
    for path in _FILES:
        with _Parent(root_fd, lower, path) as (parent, name):
            fd = os.open(name, _NEW_FILE, _MODE, dir_fd=parent)
            os.fchmod(fd, _MODE)
            os.close(fd)
    for path, target in _LINKS:
        with _Parent(root_fd, lower, path) as (parent, name):
            os.symlink(target, name, dir_fd=parent)
    for path in {path.split(b"/")[0] for path in (*_FILES, *_DIRECTORIES)}:
        below = look_up(lower, path)
        if below is not None and stat.S_ISDIR(below.st_mode) and _exists(root_fd, path):
            os.utime(path, ns=(below.st_mtime_ns, below.st_mtime_ns), dir_fd=root_fd, follow_symlinks=False)


def fill_tree(root_fd: int) -> None:
    """Put the same into a whole tree: what is in the way is removed.

    Raises:
        OSError: the file system refused.
    """
    for path in (*_DIRECTORIES, *(path.rpartition(b"/")[0] for path in _FILES)):
        parts = path.split(b"/") if path else []
        for count in range(1, len(parts) + 1):
            _make_directory(root_fd, parts[:count])
    for path in _FILES:
        with _holder(root_fd, path) as (parent, name):
            remove_entry(parent, name)
            fd = os.open(name, _NEW_FILE, _MODE, dir_fd=parent)
            os.fchmod(fd, _MODE)
            os.close(fd)
    for path, target in _LINKS:
        with _holder(root_fd, path) as (parent, name):
            remove_entry(parent, name)
            os.symlink(target, name, dir_fd=parent)


def _make_directory(root_fd: int, parts: Sequence[bytes]) -> None:
    with _holder(root_fd, b"/".join(parts)) as (parent, name):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return
            remove_entry(parent, name)
        os.mkdir(name, _MODE, dir_fd=parent)
        os.chmod(name, _MODE, dir_fd=parent)


@contextlib.contextmanager
def _holder(root_fd: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """Open the directory that holds a path, every part of which is a directory and no link."""
    *parts, name = path.split(b"/")
    fd = os.dup(root_fd)
    try:
        for part in parts:
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, name
    finally:
        os.close(fd)


class _Parent:
    """Opens the directory that will hold a path, made with the image's attributes where it is missing."""

    def __init__(self, root_fd: int, lower: Sequence[int], path: bytes) -> None:
        self._head, _, self._name = path.rpartition(b"/")
        _make_directories(root_fd, lower, self._head)
        self._fd = os.open(self._head or b".", _DIRECTORY, dir_fd=root_fd)

    def __enter__(self) -> tuple[int, bytes]:
        return self._fd, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _make_directories(root_fd: int, lower: Sequence[int], path: bytes) -> None:
    parts = path.split(b"/") if path else []
    for count in range(1, len(parts) + 1):
        prefix = b"/".join(parts[:count])
        if _exists(root_fd, prefix):
            continue
        os.mkdir(prefix, _MODE, dir_fd=root_fd)
        fd = os.open(prefix, _DIRECTORY, dir_fd=root_fd)
        try:
            below = look_up(lower, prefix)
            if below is not None and stat.S_ISDIR(below.st_mode):
                os.fchown(fd, below.st_uid, below.st_gid)
                os.fchmod(fd, stat.S_IMODE(below.st_mode))
            else:
                os.fchmod(fd, _MODE)
        finally:
            os.close(fd)


def _exists(root_fd: int, path: bytes) -> bool:
    try:
        os.stat(path, dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
