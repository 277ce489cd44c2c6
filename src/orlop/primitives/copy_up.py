"""Copy an image's directory into a new, empty volume, once.

Both trees are reached only through descriptors: the source was opened inside the container's root by openat2, so that
``VOLUME /a/../../etc`` or a link cannot name anything of the host (threats.md B16, CVE-2022-23648). A volume that is
not empty is never touched (CVE-2020-1726), unless a mark on it says that a copy was cut short by a crash.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import SystemFailureError
from orlop.primitives.removal import remove_entry

_MARK = "trusted.orlop.copy-up"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TARGET = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPIED = 1 << 24
_MAX_DEPTH = 400
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")


def copy_up(source_fd: int, target_fd: int) -> bool:
    """Copy everything below ``source_fd``, with the directory's own owner, mode and times, into ``target_fd``.

    Args:
        source_fd: O_RDONLY descriptor of the directory in the image.
        target_fd: O_RDONLY descriptor of the volume's directory.

    Returns:
        False if the volume was not empty, and nothing was done.

    Raises:
        SystemFailureError: no space left on device and the like; the volume is empty again.
    """
    names = os.listdir(target_fd)
    if names and not _is_marked(target_fd):
        return False
    _empty(target_fd)
    _mark(target_fd)
    copier = _Copier(target_fd)
    try:
        copier.copy_directory(source_fd, target_fd)
    except OSError as error:
        _empty(target_fd)
        raise SystemFailureError(f"copy-up: {(error.strerror or '').lower()}") from error
    _unmark(target_fd)
    return True


def copy_tree(source_fd: int, target_fd: int) -> None:
    """Copy everything below ``source_fd``, with the directory's own attributes, into an empty directory.

    Raises:
        OSError: no space left on device and the like; what was copied stays.
        SystemFailureError: directories too deep.
    """
    _Copier(target_fd).copy_directory(source_fd, target_fd)


def _empty(fd: int) -> None:
    for name in os.listdir(fd):
        remove_entry(fd, os.fsencode(name))


def _is_marked(fd: int) -> bool:
    try:
        return bool(os.getxattr(fd, _MARK))
    except OSError:
        return False


def _mark(fd: int) -> None:
    try:
        os.setxattr(fd, _MARK, b"1")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def _unmark(fd: int) -> None:
    try:
        os.removexattr(fd, _MARK)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
            raise


class _Copier:
    """Knows the first copy of every hard-linked file, by its path below the volume's directory."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._links: dict[tuple[int, int], bytes] = {}

    def copy_directory(self, source: int, target: int, prefix: bytes = b"", depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise SystemFailureError("copy-up: directories too deep")
        for text in sorted(os.listdir(source)):
            name = os.fsencode(text)
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                inner_source = os.open(name, _DIRECTORY, dir_fd=source)
                try:
                    inner_target = os.open(name, _DIRECTORY, dir_fd=target)
                    try:
                        self.copy_directory(inner_source, inner_target, prefix + name + b"/", depth + 1)
                    finally:
                        os.close(inner_target)
                finally:
                    os.close(inner_source)
            elif stat.S_ISREG(status.st_mode):
                self._copy_regular(source, target, prefix, name, status)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                _set_owner_and_time(target, name, status)
            elif not stat.S_ISSOCK(status.st_mode):
                os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
                _set_owner_and_time(target, name, status)
                # The umask is the whole process's, and this may be one of its threads. No link can be in the way here.
                os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
        _copy_attributes(source, target)

    def _copy_regular(self, source: int, target: int, prefix: bytes, name: bytes, status: os.stat_result) -> None:
        path = prefix + name
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                # Nobody else can reach the volume yet, so that no link can have been put in the way.
                os.link(first, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
                return
        _copy_file(source, target, name)


def _set_owner_and_time(target: int, name: bytes, status: os.stat_result) -> None:
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: bytes) -> None:
    reader = os.open(name, _SOURCE, dir_fd=source)
    try:
        writer = os.open(name, _TARGET, 0o600, dir_fd=target)
        try:
            _copy_content(reader, writer)
            _copy_attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_content(reader: int, writer: int) -> None:
    try:
        while os.copy_file_range(reader, writer, _COPIED):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        while os.sendfile(writer, reader, None, _COPIED):
            pass


def _copy_attributes(source: int, target: int) -> None:
    """Owner, then mode (chown clears setuid), then attributes (chown clears capabilities), then times."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    try:
        names = os.listxattr(source)
    except OSError:
        names = []
    for name in names:
        if name.startswith(_KEPT_XATTRS) and not name.startswith("user.overlay."):
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
                    raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
