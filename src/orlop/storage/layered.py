"""Look into a stack of overlay layers without mounting it: look-up of a path, use of space, changes.

Layers hold what images brought: every path is resolved by the kernel beneath its layer, without following any link
(threats.md D6).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from orlop.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from orlop.storage.contract import Change, ChangeKind, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPAQUE_XATTR = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether an entry of a layer is overlay's mark of a deleted one: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Tell whether a layer's directory hides what lower layers have in it."""
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False


def look_up(layers: Sequence[int], path: bytes) -> os.stat_result | None:
    """Return the status of what a mounted stack would show at ``path``, not following a link; None if nothing.

    Args:
        layers: descriptors of the layers' root directories, topmost first.
        path: relative, clean, not empty; its parents must not be links.
    """
    parts = path.split(b"/")
    for layer in layers:
        for count in range(1, len(parts) + 1):
            try:
                fd = openat2(
                    layer, b"/".join(parts[:count]), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=_RESOLVE
                )
            except OSError as error:
                if error.errno in _GONE:
                    break  # not in this layer
                raise
            try:
                status = os.fstat(fd)
                if is_whiteout(status):
                    return None
                if count == len(parts):
                    return status
                if not stat.S_ISDIR(status.st_mode):
                    return None
                opaque = _is_opaque_path(fd)
            finally:
                os.close(fd)
            if opaque:
                # Only this layer counts below here.
                return look_up((layer,), path) if len(layers) > 1 else _inside(layer, path)
    return None


def _inside(layer: int, path: bytes) -> os.stat_result | None:
    try:
        fd = openat2(layer, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=_RESOLVE)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        status = os.fstat(fd)
        return None if is_whiteout(status) else status
    finally:
        os.close(fd)


def _is_opaque_path(path_fd: int) -> bool:
    fd = os.open(b".", _DIRECTORY, dir_fd=path_fd)
    try:
        return is_opaque(fd)
    finally:
        os.close(fd)


def walk(root_fd: int) -> Iterator[tuple[bytes, os.stat_result, int]]:
    """Yield path, status and descriptor of the holding directory for all entries, parents first, names in order.

    The descriptor is valid until the next item is asked for.
    """
    levels: list[tuple[int, bytes, Iterator[bytes]]] = [(os.dup(root_fd), b"", iter(_names(root_fd)))]
    try:
        while levels:
            fd, prefix, names = levels[-1]
            name = next(names, None)
            if name is None:
                levels.pop()
                os.close(fd)
                continue
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield prefix + name, status, fd
                if stat.S_ISDIR(status.st_mode):
                    child = os.open(name, _DIRECTORY, dir_fd=fd)
                    levels.append((child, prefix + name + b"/", iter(_names(child))))
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed or replaced meanwhile by the container
    finally:
        for fd, _, _ in levels:
            os.close(fd)


def _names(fd: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(fd))


def measure(root_fd: int) -> Usage:
    """Return the size of all files below a directory, hard links once, and the number of inodes."""
    size = 0
    inodes: set[tuple[int, int]] = set()
    for _, status, _ in walk(root_fd):
        inode = (status.st_dev, status.st_ino)
        if inode not in inodes:
            inodes.add(inode)
            if not stat.S_ISDIR(status.st_mode):
                size += status.st_size
    return Usage(size, len(inodes))


def find_changes(upper: int, lower: Sequence[int]) -> list[Change]:
    """Compare a writable layer with what is below it, with Docker's rules.

    A directory that only lies on the way to a change is modified only if something was added to or deleted from it.
    """
    changes: dict[bytes, ChangeKind] = {}
    for path, status, _ in walk(upper):
        if is_whiteout(status):
            kind = ChangeKind.DELETE
        else:
            below = look_up(lower, path)
            kind = ChangeKind.ADD if below is None else ChangeKind.MODIFY
            if below is not None and _is_untouched(status, below):
                continue
        changes[path] = kind
        parent = path.rpartition(b"/")[0]
        if kind is not ChangeKind.MODIFY and parent:
            changes.setdefault(parent, ChangeKind.MODIFY)
    return sorted(Change(b"/" + path, kind) for path, kind in changes.items())


def _is_untouched(upper: os.stat_result, lower: os.stat_result) -> bool:
    fields = ("st_mode", "st_uid", "st_gid", "st_mtime_ns")  # dockerd's native differ looks at the last one only
    return stat.S_ISDIR(upper.st_mode) and all(getattr(upper, field) == getattr(lower, field) for field in fields)
