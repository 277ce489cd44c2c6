"""Paths inside a root that an attacker may be changing: everything through descriptors.

A path is resolved as if ``root_fd`` were ``/``: absolute links and ``..`` stay inside (openat2(2), RESOLVE_IN_ROOT).
What is found is handed over as a descriptor and never looked up a second time (CVE-2021-30465, CVE-2024-45310).
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidParameterError
from orlop.kernel.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from orlop.kernel.statfs import PROC_SUPER_MAGIC, file_system_type
from orlop.kernel.syscall import SyscallError
from orlop.primitives.owned_fd import OwnedFd

_RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS

# a rename elsewhere on the machine makes RESOLVE_IN_ROOT answer EAGAIN when ".." is walked (openat2(2))
_RACE_RETRIES = 128

# MAXSYMLINKS of the kernel
_MAX_LINKS = 40

_O_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_NEW_DIRECTORY = _O_PATH_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def components(path: str | bytes) -> list[bytes]:
    """Split into names; ``.`` goes and ``..`` takes back a name, as Docker cleans destinations.

    Raises:
        InvalidParameterError: a NUL, or a name longer than 255 bytes.
    """
    names: list[bytes] = []
    for name in os.fsencode(path).split(b"/"):
        if name == b"..":
            del names[-1:]
        elif b"\0" in name or len(name) > 255:
            raise InvalidParameterError(f"not a path: {name[:80]!r}")
        elif name not in {b"", b"."}:
            names.append(name)
    return names


def open_in_root(
    root_fd: int, path: str | bytes, flags: int = os.O_PATH, mode: int = 0, *, extra_resolve: int = 0
) -> OwnedFd:
    """Open ``path`` with links resolved inside the root; close-on-exec always.

    Args:
        root_fd: the directory that is ``/``.
        path: absolute or relative, both start at the root.
        flags: of open(2); with O_CREAT add O_NOFOLLOW and O_EXCL, or use :func:`create_file_in_root`.
        mode: of a new file.
        extra_resolve: RESOLVE_ flags beyond staying in the root and refusing magic links.

    Raises:
        SyscallError: ENOENT, ELOOP, and what else open(2) says; EAGAIN when somebody renames without pause.
    """
    for _ in range(_RACE_RETRIES):
        try:
            return OwnedFd(openat2(root_fd, path, flags | os.O_CLOEXEC, mode, resolve=_RESOLVE | extra_resolve))
        except SyscallError as error:
            if error.errno not in {errno.EAGAIN, errno.EINTR}:
                raise
            last = error
    raise last


def open_directory_in_root(root_fd: int, path: str | bytes) -> OwnedFd:
    """Open a directory by O_PATH. Raises SyscallError ENOTDIR when it is something else."""
    return open_in_root(root_fd, path, _O_PATH_DIRECTORY)


def mode_in_root(root_fd: int, path: str | bytes) -> int | None:
    """Return the permissions of what a path leads to; None where there is nothing."""
    try:
        with open_in_root(root_fd, path) as found:
            return stat.S_IMODE(os.fstat(found.fileno()).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def mkdir_all_in_root(root_fd: int, path: str | bytes, mode: int = 0o755) -> OwnedFd:
    """Make a directory with its missing parents and return it, by O_PATH.

    Each step is made in the descriptor of the one before, so a link swapped in meanwhile leads to an error and never
    to a directory outside (CVE-2024-45310). A dangling link is followed inside the root, as mkdir -p there would.

    Raises:
        SyscallError: ENOTDIR when a file is in the way, ELOOP, EROFS and so on.
        InvalidParameterError: not a path.
    """
    return _mkdir_all(root_fd, components(path), mode, _MAX_LINKS)


def _mkdir_all(root_fd: int, names: list[bytes], mode: int, links: int) -> OwnedFd:
    directory, missing = _open_existing(root_fd, names)
    try:
        for depth in range(len(names) - missing, len(names)):
            name = names[depth]
            try:
                os.mkdir(name, mode, dir_fd=directory.fileno())
            except FileExistsError:
                # a dangling link, or somebody was faster
                target = _readlink(directory, name)
                if target is not None:
                    directory.close()
                    if links == 0:
                        raise SyscallError("mkdirat", errno.ELOOP, (name,)) from None
                    return _mkdir_all(root_fd, _retarget(names, depth, target), mode, links - 1)
            below = os.open(name, _NEW_DIRECTORY, dir_fd=directory.fileno())
            directory.close()
            directory = OwnedFd(below)
    except BaseException:
        directory.close()
        raise
    return directory


def _retarget(names: list[bytes], depth: int, target: bytes) -> list[bytes]:
    """Put a link's target in place of the name at ``depth``."""
    base = [] if target.startswith(b"/") else names[:depth]
    return components(b"/".join([*base, target, *names[depth + 1 :]]))


def _open_existing(root_fd: int, names: list[bytes]) -> tuple[OwnedFd, int]:
    """Open the longest leading part that exists; return it and how many names are missing."""
    for missing in range(len(names) + 1):
        path = b"/".join(names[: len(names) - missing]) or b"."
        try:
            return open_directory_in_root(root_fd, path), missing
        except SyscallError as error:
            if error.errno != errno.ENOENT or missing == len(names):
                raise
    raise AssertionError("unreachable")


def _readlink(directory: OwnedFd, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory.fileno())
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def create_file_in_root(root_fd: int, path: str | bytes, mode: int = 0o755) -> OwnedFd:
    """Return the file at ``path`` by O_PATH; when there is none, make an empty one with its parents.

    An existing file is neither truncated nor opened for writing; a new one is made with mknodat in the parent's
    descriptor and must then be that regular file. Meant for targets of bind mounts (threats.md B7).

    Raises:
        SyscallError: EISDIR when a directory is there; otherwise as :func:`mkdir_all_in_root`.
    """
    names = components(path)
    for _ in range(_MAX_LINKS):
        if not names:
            raise SyscallError("mknodat", errno.EISDIR, (path,))
        try:
            return _not_directory(open_in_root(root_fd, b"/".join(names)), path)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        with mkdir_all_in_root(root_fd, b"/".join(names[:-1])) as parent:
            try:
                os.mknod(names[-1], stat.S_IFREG | mode, dir_fd=parent.fileno())
            except FileExistsError:
                target = _readlink(parent, names[-1])
                if target is None:
                    continue
                names = _retarget(names, len(names) - 1, target)
                continue
            made = open_in_root(parent.fileno(), names[-1], os.O_PATH | os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(made.fileno()).st_mode):
            made.close()
            raise SyscallError("mknodat", errno.EEXIST, (path, "replaced by something else"))
        return made
    raise SyscallError("mknodat", errno.ELOOP, (path,))


def _not_directory(found: OwnedFd, path: str | bytes) -> OwnedFd:
    if is_directory(found.fileno()):
        found.close()
        raise SyscallError("openat2", errno.EISDIR, (path,))
    return found


def is_directory(fd: int) -> bool:
    """Whether the descriptor is of a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def is_char_device(fd: int, major: int, minor: int) -> bool:
    """Whether the descriptor is of exactly this character device (CVE-2025-31133: /dev/null is 1:3)."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(major, minor)


def is_on(fd: int, magic: int) -> bool:
    """Whether the descriptor is on a file system of this type (``orlop.kernel.statfs``)."""
    return file_system_type(fd) == magic


def is_proc(fd: int) -> bool:
    """Whether the descriptor is on a real procfs (CVE-2019-16884, CVE-2025-52881)."""
    return is_on(fd, PROC_SUPER_MAGIC)
