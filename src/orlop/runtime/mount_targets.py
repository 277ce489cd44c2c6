"""Where something may be mounted: what the image's links lead to is judged after it was opened, never as text."""

from __future__ import annotations

import errno
import os

from orlop.errors import InvalidParameterError
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import components, is_proc

# What may be mounted below /proc: files that lxcfs and Podman replace (runc's list); anything else could hide
# the files that protect the container (CVE-2019-16884).
_BELOW_PROC = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev", "sys"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled", "scsi"),
    )
)
PROC = "/proc"
_PROC_ROOT_INODE = 1  # PROC_ROOT_INO of the kernel; its other directories have others
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check_is_proc(tree_fd: int) -> None:
    """Refuse to bind anything but procfs on /proc, as rootless Podman does for ``--pid=host``; nor a part of it.

    Raises:
        InvalidParameterError: in runc's words.
    """
    if not is_proc(tree_fd) or os.fstat(tree_fd).st_ino != _PROC_ROOT_INODE:
        raise InvalidParameterError(f'"{PROC}" cannot be mounted because it is not of type proc')


def check_below_proc(destination: str) -> None:
    """Refuse what would hide files of procfs, by its name. Raises InvalidParameterError."""
    if destination == PROC or (destination.startswith("/proc/") and destination not in _BELOW_PROC):
        raise InvalidParameterError(f'"{destination}" cannot be mounted because it is inside /proc')


def check_target(root_fd: int, target_fd: int, destination: str) -> None:
    """Refuse a target to which links of the image led: procfs, and the root itself (CVE-2019-16884).

    Raises:
        InvalidParameterError: in runc's words.
    """
    if destination not in _BELOW_PROC and is_proc(target_fd):
        raise InvalidParameterError(f'"{destination}" cannot be mounted because it is inside /proc')
    if os.path.samestat(os.fstat(root_fd), os.fstat(target_fd)):
        raise InvalidParameterError(f"mounting into / is prohibited: {destination}")


def open_ordinary_directory(root_fd: int, path: str) -> OwnedFd:
    """Open, or make, a directory of which no component may be a link (CVE-2019-19921).

    Raises:
        InvalidParameterError: something on the way is a link or no directory.
    """
    parent = OwnedFd(os.dup(root_fd))
    try:
        for name in components(path):
            try:
                child = os.open(name, _DIRECTORY, dir_fd=parent.fileno())
            except FileNotFoundError:
                os.mkdir(name, 0o755, dir_fd=parent.fileno())
                child = os.open(name, _DIRECTORY, dir_fd=parent.fileno())
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                    message = f'filesystem "{path.strip("/")}" must be mounted on ordinary directory: {path}'
                    raise InvalidParameterError(message) from None
                raise
            parent.close()
            parent = OwnedFd(child)
    except BaseException:
        parent.close()
        raise
    return parent
