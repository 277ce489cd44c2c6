"""Remove a whole tree through directory descriptors.

``shutil.rmtree`` is banned on container paths: it recurses as deep as a container likes and stops on immutable files.
Here the walk never follows a link, never enters a mount (not even one of the same file system), keeps few descriptors
open however deep the tree is (a directory deeper than :data:`_DEPTH` is first moved up to the top), and clears the
immutable and append-only attributes that a container with CAP_LINUX_IMMUTABLE left behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel.openat2 import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

_DEPTH = 100
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_IMMUTABLE_FL = 0x10
_FS_APPEND_FL = 0x20


def remove_tree(path: str) -> None:
    """Remove the directory or file at ``path`` with all below it; a missing one is fine.

    Args:
        path: absolute; its parents belong to the engine.

    Raises:
        InvalidParameterError: the path is not absolute or is the root.
        SystemFailureError: something cannot be removed, for instance a mount point.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    if not path.startswith("/") or name in ("", ".", ".."):
        raise InvalidParameterError(f"not a path that can be removed: {path}")
    try:
        parent_fd = os.open(parent or "/", _OPEN & ~os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        remove_entry(parent_fd, os.fsencode(name))
    except OSError as error:
        raise SystemFailureError(f"unable to remove {path}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(parent_fd)


def remove_entry(parent_fd: int, name: bytes) -> None:
    """Remove what ``name`` is in the directory ``parent_fd``, with all below it; a missing one is fine.

    Raises:
        OSError: something cannot be removed.
    """
    try:
        _unlink(parent_fd, name)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        if not _is_directory(parent_fd, name):
            raise
        del error
    else:
        return
    top = _open_below(parent_fd, name)
    try:
        _empty(top)
    finally:
        os.close(top)
    _rmdir(parent_fd, name)


def _open_below(fd: int, name: bytes) -> int:
    """Open a directory; EBUSY when something is mounted there, of whatever file system: it is somebody else's."""
    try:
        return openat2(fd, name, _OPEN, resolve=RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), name) from None
        raise


def _empty(top: int) -> None:
    """Remove everything in the directory ``top``."""
    moved = 0
    # Each level: its descriptor, the names of directories in it still to be removed.
    levels: list[tuple[int, list[bytes]]] = [(top, _remove_files(top))]
    try:
        while levels:
            fd, names = levels[-1]
            if names:
                name = names[-1]
                if len(levels) >= _DEPTH:
                    lifted = b".orlop-removal-%d" % moved
                    moved += 1
                    os.rename(name, lifted, src_dir_fd=fd, dst_dir_fd=top)
                    names.pop()
                    levels[0][1].insert(0, lifted)
                    continue
                child = _open_below(fd, name)
                levels.append((child, []))
                levels[-1][1].extend(_remove_files(child))
                continue
            levels.pop()
            if levels:
                os.close(fd)
                parent, siblings = levels[-1]
                _rmdir(parent, siblings.pop())
    finally:
        for fd, _ in levels[1:]:
            os.close(fd)


def _remove_files(fd: int) -> list[bytes]:
    """Remove everything in the directory that is not a directory; return the names of those."""
    directories = []
    with os.scandir(fd) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
        else:
            _unlink(fd, name)
    return directories


def _unlink(fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except PermissionError:
        if _is_directory(fd, name) or not _clear_attributes(fd, name):
            raise
        os.unlink(name, dir_fd=fd)


def _rmdir(fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except PermissionError:
        if not _clear_attributes(fd, name):
            raise
        os.rmdir(name, dir_fd=fd)


def _is_directory(fd: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _clear_attributes(fd: int, name: bytes) -> bool:
    """Clear immutable and append-only of the entry and of the directory that holds it; False if there were none."""
    cleared = _clear_flags(fd)
    try:
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return cleared
        target = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return cleared
    try:
        return _clear_flags(target) or cleared
    finally:
        os.close(target)


def _clear_flags(fd: int) -> bool:
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))
        if not flags & (_FS_IMMUTABLE_FL | _FS_APPEND_FL):
            return False
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("i", flags & ~(_FS_IMMUTABLE_FL | _FS_APPEND_FL)))
    except OSError:
        return False
    return True
