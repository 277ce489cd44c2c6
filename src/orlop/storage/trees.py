"""Storage drivers whose snapshots are whole trees: ``vfs`` copies files, ``btrfs`` takes snapshots of subvolumes.

::

    <data-root>/layers/<driver>/<key>/  (orlop.storage.snapshots)
      tree/                                    the whole root directory; with btrfs a subvolume
      active/                         0700     only while active

``vfs`` works everywhere and is slow: each layer and each container is a copy of what is below it, made while the
engine waits. It is for file systems on which nothing else works, and for tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, TypeVar

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import btrfs
from orlop.kernel.statfs import file_system_type
from orlop.primitives.copy_up import copy_tree
from orlop.primitives.difference import ADDED, DELETED, Entry, differences
from orlop.spec.launch import OverlayRoot
from orlop.storage.contract import Change, ChangeKind, Difference, Usage
from orlop.storage.limits import UNSUPPORTED
from orlop.storage.snapshots import DIRECTORY, Snapshots, make_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_TREE = "tree"
_KINDS = {ADDED: ChangeKind.ADD, DELETED: ChangeKind.DELETE}


def open_vfs(layers_root: str) -> Trees:
    """Open the ``vfs`` driver. Raises SystemFailureError."""
    return Trees("vfs", make_root(layers_root, "vfs"), _Copies())


def open_btrfs(layers_root: str) -> Trees:
    """Open the ``btrfs`` driver.

    Raises:
        UnsupportedError: the file system is another.
        SystemFailureError: the directory cannot be made.
    """
    root = make_root(layers_root, "btrfs")
    fd = os.open(root, DIRECTORY)
    try:
        if file_system_type(fd) != btrfs.SUPER_MAGIC:
            raise UnsupportedError(f"btrfs: prerequisites for driver not satisfied (wrong filesystem?): {root}")
    finally:
        os.close(fd)
    return Trees("btrfs", root, _Subvolumes())


class _Copies:
    """Trees as plain directories."""

    status: tuple[tuple[str, str], ...] = ()

    def make(self, directory_fd: int, source_fd: int | None) -> None:
        """Make ``tree`` in a directory, empty or as a copy of another."""
        os.mkdir(_TREE, 0o755, dir_fd=directory_fd)
        if source_fd is None:
            return
        fd = os.open(_TREE, DIRECTORY, dir_fd=directory_fd)
        try:
            copy_tree(source_fd, fd)
        finally:
            os.close(fd)

    def drop(self, grave: str) -> None:
        """Everything in the grave is for ``remove_tree``."""

    def seal(self, fd: int) -> None:
        """A committed tree is protected by nobody's writing to it."""


class _Subvolumes:
    """Trees as subvolumes, which appear, and go, without a look at their files."""

    status: tuple[tuple[str, str], ...] = (("Btrfs", ""),)

    def make(self, directory_fd: int, source_fd: int | None) -> None:
        """Make ``tree`` in a directory, empty or as a snapshot of another."""
        if source_fd is None:
            btrfs.subvolume_create(directory_fd, _TREE)
        else:
            btrfs.snapshot_create(source_fd, directory_fd, _TREE)

    def seal(self, fd: int) -> None:
        """Make a committed subvolume read-only."""
        btrfs.set_read_only(fd, read_only=True)

    def drop(self, grave: str) -> None:
        """Destroy the subvolume, and those that a container made in it; what cannot go stays for the next time."""
        with contextlib.suppress(OSError):
            fd = os.open(grave, DIRECTORY)
            try:
                self._destroy(fd, os.fsencode(_TREE))
            finally:
                os.close(fd)

    def _destroy(self, parent: int, name: bytes) -> None:
        try:
            btrfs.subvolume_destroy(parent, name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            with _opened(parent, name) as fd:
                btrfs.set_read_only(fd, read_only=False)
                self._destroy_below(fd)
            btrfs.subvolume_destroy(parent, name)

    def _destroy_below(self, top: int) -> None:
        device = os.fstat(top).st_dev
        for entry in differences(top, None):
            if stat.S_ISDIR(entry.status.st_mode) and entry.status.st_dev != device:
                self._destroy(entry.parent, entry.name)


@contextlib.contextmanager
def _opened(parent: int, name: bytes) -> Iterator[int]:
    fd = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


class Trees:
    """See :class:`orlop.storage.contract.Snapshotter` for what each method promises."""

    whole = True

    def __init__(self, name: str, root: str, trees: _Copies | _Subvolumes) -> None:
        self._name = name
        self._trees = trees
        self._snapshots = Snapshots(name, root, marker="active")
        self.keys = self._snapshots.keys
        self.is_active = self._snapshots.is_active
        self.close = self._snapshots.close

    @property
    def name(self) -> str:
        """``vfs`` or ``btrfs``."""
        return self._name

    def status(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs that dockerd shows."""
        return self._trees.status

    def prepare(self, key: str, parent: str | None, *, size: int = 0) -> None:
        """Make an active snapshot."""
        if size:
            raise InvalidParameterError(UNSUPPORTED)
        self._snapshots.prepare(key, parent, self._make)

    def _make(self, draft: str, parent: str | None) -> None:
        root = self._snapshots.root_fd
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(_opened(root, os.fsencode(draft)))
            source = None if parent is None else stack.enter_context(_opened(root, f"{parent}/{_TREE}".encode()))
            self._trees.make(directory, source)
            tree = stack.enter_context(_opened(directory, _TREE.encode()))
            times = os.fstat(tree)
            os.fchmod(tree, 0o755)  # whatever the umask and the archive's root say
            os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))

    def commit(self, key: str, name: str) -> None:
        """Turn an active snapshot into a committed one."""
        self._snapshots.commit(key, name)
        with self._snapshots.opened((name,), _TREE) as (fd,):
            self._trees.seal(fd)

    def remove(self, key: str) -> str | None:
        """Make the snapshot disappear; return what is left of it."""
        path = self._snapshots.remove(key)
        if path is not None:
            self._trees.drop(path)
        return path

    def tombstones(self) -> list[str]:
        """Return what is left to be deleted."""
        graves = self._snapshots.tombstones()
        for grave in graves:
            self._trees.drop(grave)
        return graves

    def directory(self, key: str) -> str:
        """Return the snapshot's tree."""
        self._snapshots.check(key)
        return f"{self._snapshots.root}/{key}/{_TREE}"

    def difference(self, key: str) -> Difference:
        """Return the snapshot's tree and the one that it began as."""
        tree = self.directory(key)
        parent = self._snapshots.parent(key)
        return Difference(tree, None if parent is None else self.directory(parent))

    def mounts(self, key: str, *, writable: bool = True) -> OverlayRoot:
        """Return how to mount the snapshot: its tree is bound."""
        tree = self.directory(key)
        return OverlayRoot((), upper=tree) if writable and self.is_active(key) else OverlayRoot((tree,))

    def usage(self, key: str) -> Usage:
        """Walk the tree and measure what differs from the parent's."""
        size = 0
        inodes: set[tuple[int, int]] = set()
        for status, kind in self._compare(key, lambda entry: (entry.status, entry.kind)):
            inode = (status.st_dev, status.st_ino)
            if kind != DELETED and inode not in inodes:
                inodes.add(inode)
                size += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        return Usage(size, len(inodes))

    def diff(self, key: str) -> list[Change]:
        """Walk the tree and compare it with the parent's."""
        found = self._compare(key, lambda entry: Change(b"/" + entry.path, _KINDS.get(entry.kind, ChangeKind.MODIFY)))
        return sorted(found)

    def _compare(self, key: str, result: Callable[[Entry], T]) -> list[T]:
        self._snapshots.check(key)
        parent = self._snapshots.parent(key)
        keys = (key,) if parent is None else (key, parent)
        with self._snapshots.opened(keys, _TREE) as fds:
            return [result(entry) for entry in differences(fds[0], fds[1] if parent is not None else None)]

    def describe(self, key: str) -> dict[str, str]:
        """Dockerd shows nothing for these drivers."""
        self._snapshots.check(key)
        return {}
