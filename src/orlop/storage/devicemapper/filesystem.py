"""Making, mounting and growing the file systems on thin devices."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from orlop.errors import UnsupportedError
from orlop.kernel import block
from orlop.kernel import mount as k
from orlop.primitives import commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MKFS_SECONDS = 900.0
# ext4: superblock at 1024, s_uuid in it at 0x68; xfs: sb_uuid at 32
_UUID_AT = {"ext4": 1024 + 0x68, "xfs": 32}
# a snapshot has the uuid of its origin
_OPTIONS: dict[str, tuple[str, ...]] = {"ext4": (), "xfs": ("nouuid",)}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def mount_options(kind: str, more: Sequence[str]) -> tuple[str, ...]:
    """Return the options of every mount of such a file system."""
    return (*_OPTIONS[kind], *more)


def make(path: str, kind: str, arguments: Sequence[str], *, zeroed: bool) -> None:
    """Make a file system.

    Args:
        path: the device.
        kind: ext4 or xfs.
        arguments: of mkfs, before ours.
        zeroed: what was never written reads as zeros, so that mkfs and the kernel need not write them.

    Raises:
        UnavailableError, SystemFailureError: there is no mkfs, or it failed; in its words.
    """
    if kind == "ext4":
        prepared = "assume_storage_prezeroed=1" if zeroed else "lazy_itable_init=0,lazy_journal_init=0"
        own = ["-q", "-F", "-E", f"nodiscard,{prepared}"]
    else:
        own = ["-q", "-f", "-K"]
    commands.run([f"mkfs.{kind}", *arguments, *own, path], timeout=_MKFS_SECONDS).check()


def uuid_of(path: str, kind: str) -> str:
    """Return a file system's uuid, in hexadecimal digits."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, 16, _UUID_AT[kind]).hex()
    finally:
        os.close(fd)


def mount(path: str, kind: str, options: Sequence[str], *, sealed: bool = False, view: bool = False) -> int:
    """Return a descriptor of a detached mount, for this process to look at and to write to.

    Raises:
        UnsupportedError: the kernel does not know the file system.
        OSError: the device is gone, or holds something else.
    """
    try:
        context = k.fsopen(kind)
    except OSError as error:
        raise UnsupportedError(f"devicemapper: {kind}: {(error.strerror or '').lower()}") from error
    try:
        k.fsconfig_set_string(context, "source", path)
        for option in (*options, *(("ro",) if sealed else ())):
            name, equals, value = option.partition("=")
            if equals:
                k.fsconfig_set_string(context, name, value)
            else:
                k.fsconfig_set_flag(context, name)
        k.fsconfig_create(context)
        attributes = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
        return k.fsmount(context, attributes | (k.MOUNT_ATTR_RDONLY if sealed or view else 0))
    finally:
        os.close(context)


@contextlib.contextmanager
def root_of(mount_fd: int) -> Iterator[int]:
    """Open a mount's root directory for reading."""
    fd = os.open(".", _DIRECTORY, dir_fd=mount_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def grow(mount_fd: int, kind: str, size: int) -> None:
    """Let a mounted file system have all of its device, which has ``size`` bytes."""
    with root_of(mount_fd) as root:
        (block.grow_ext4 if kind == "ext4" else block.grow_xfs)(root, size)


def clear(mount_fd: int) -> None:
    """Take away what mkfs made in a new file system, and give its root the mode of a container's."""
    with root_of(mount_fd) as root:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir("lost+found", dir_fd=root)
        os.fchmod(root, 0o755)
