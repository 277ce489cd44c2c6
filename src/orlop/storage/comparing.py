"""What differs between two whole trees, for the drivers whose snapshots are such."""

from __future__ import annotations

import stat

from orlop.primitives.difference import ADDED, DELETED, differences
from orlop.storage.contract import Change, ChangeKind, Usage

_KINDS = {ADDED: ChangeKind.ADD, DELETED: ChangeKind.DELETE}


def measure_difference(tree_fd: int, below_fd: int | None) -> Usage:
    """Return what a tree holds that the one below it has not."""
    size = 0
    inodes: set[tuple[int, int]] = set()
    for entry in differences(tree_fd, below_fd):
        inode = (entry.status.st_dev, entry.status.st_ino)
        if entry.kind != DELETED and inode not in inodes:
            inodes.add(inode)
            size += 0 if stat.S_ISDIR(entry.status.st_mode) else entry.status.st_size
    return Usage(size, len(inodes))


def list_difference(tree_fd: int, below_fd: int | None) -> list[Change]:
    """Return the differences of two trees by path."""
    found = differences(tree_fd, below_fd)
    return sorted(Change(b"/" + entry.path, _KINDS.get(entry.kind, ChangeKind.MODIFY)) for entry in found)
