"""Find out what a file system can do, by doing it in a scratch directory on it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

from orlop.errors import UnsupportedError
from orlop.kernel.dirent import DT_DIR, getdents64
from orlop.kernel.mount import escape_overlay, fsconfig_create, fsconfig_set_string, fsmount, fsopen
from orlop.primitives.removal import remove_tree


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system under a directory; ``name`` as dockerd's "Backing Filesystem" spells it."""

    name: str


# Docker's spelling of the types that differ from /proc/mounts (graphdriver.FsNames).
_NAMES = {"ext4": "extfs", "ext3": "extfs", "ext2": "extfs", "overlay": "overlayfs"}


def probe_overlay(directory: str) -> FileSystem:
    """Check that overlay can be mounted with its upper directory on this file system.

    Nothing appears in any mount table: the test mount stays detached.

    Raises:
        UnsupportedError: what is missing.
        OSError: the directory itself cannot be written to.
    """
    name = backing_file_system(directory)
    scratch = tempfile.mkdtemp(prefix=".probe-", dir=directory)
    try:
        for part in ("lower", "upper", "work"):
            os.mkdir(f"{scratch}/{part}", 0o700)
        _check_d_type(scratch, name)
        _check_xattr(f"{scratch}/lower", name)
        _check_mount(scratch, name)
    finally:
        remove_tree(scratch)
    return FileSystem(name)


def backing_file_system(path: str) -> str:
    """Return the type of the file system that holds ``path``, in Docker's spelling; "<unknown>" if it is not listed."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields, _, tail = line.partition(" - ")
            if fields.split()[2] == wanted:
                kind = tail.split()[0]
                return _NAMES.get(kind, kind)
    return "<unknown>"


def _check_d_type(scratch: str, name: str) -> None:
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kinds = dict(getdents64(fd))
    finally:
        os.close(fd)
    if kinds.get(b"lower") != DT_DIR:
        raise UnsupportedError(f"overlay2: the backing {name} filesystem is formatted without d_type support")


def _check_xattr(path: str, name: str) -> None:
    try:
        os.setxattr(path, "trusted.orlop.probe", b"y")
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UnsupportedError(
            f"overlay2: the backing {name} filesystem has no trusted.* attributes: {reason}"
        ) from None


def _check_mount(scratch: str, name: str) -> None:
    try:
        context = fsopen("overlay")
        try:
            for option, part in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")):
                path = escape_overlay(f"{scratch}/{part}", several=part == "lower")
                fsconfig_set_string(context, option, path)
            fsconfig_create(context)
            os.close(fsmount(context))
        finally:
            os.close(context)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UnsupportedError(
            f"overlay2: overlay cannot be mounted on the backing {name} filesystem: {reason}"
        ) from None
