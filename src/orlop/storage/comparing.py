"""What differs between two whole trees, for the drivers whose snapshots are such."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from orlop.primitives.difference import ADDED, DELETED, differences
from orlop.storage.contract import Change, ChangeKind, Usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_KINDS = {ADDED: ChangeKind.ADD, DELETED: ChangeKind.DELETE}


class Comparison:
    """``usage`` and ``diff`` of such a driver.

    Args:
        opened: opens a snapshot's tree and its parent's, None without parent, for reading.
    """

    def __init__(self, opened: Callable[[str], AbstractContextManager[tuple[int, int | None]]]) -> None:
        self._opened = opened

    def usage(self, key: str) -> Usage:
        """Walk the tree and measure what the one below it has not."""
        size = 0
        inodes: set[tuple[int, int]] = set()
        with self._opened(key) as (tree, below):
            for entry in differences(tree, below):
                inode = (entry.status.st_dev, entry.status.st_ino)
                if entry.kind != DELETED and inode not in inodes:
                    inodes.add(inode)
                    size += 0 if stat.S_ISDIR(entry.status.st_mode) else entry.status.st_size
        return Usage(size, len(inodes))

    def diff(self, key: str) -> list[Change]:
        """Walk the tree and compare it with the one below, by path."""
        with self._opened(key) as (tree, below):
            found = differences(tree, below)
            return sorted(Change(b"/" + entry.path, _KINDS.get(entry.kind, ChangeKind.MODIFY)) for entry in found)
