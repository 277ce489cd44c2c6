"""Storage drivers whose snapshots are whole trees: ``vfs`` copies files, ``btrfs`` takes snapshots of subvolumes.

::

    <data-root>/layers/<driver>/<key>/  (orlop.storage.snapshots)
      tree/                                    the whole root directory; with btrfs a subvolume
      active/                         0700     only while active

``vfs`` works everywhere and is slow: each layer and each container is a copy of what is below it, made in a thread
while the engine serves others. It is for file systems on which nothing else works, and for tests.

A size of a container is a limit of its subvolume's quota group, and counts what it shares with its image, as in Docker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import btrfs
from orlop.kernel.statfs import file_system_type
from orlop.primitives.copy_up import copy_tree
from orlop.primitives.difference import differences
from orlop.spec.launch import OverlayRoot
from orlop.storage.comparing import Comparison
from orlop.storage.contract import Difference
from orlop.storage.limits import UNSUPPORTED, human_size
from orlop.storage.options import btrfs_min_space, refuse_for_vfs
from orlop.storage.snapshots import DIRECTORY, Snapshots, make_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_TREE = "tree"


def open_vfs(layers_root: str, options: Mapping[str, str] | None = None) -> Trees:
    """Open the ``vfs`` driver. Raises InvalidParameterError, SystemFailureError."""
    refuse_for_vfs(options or {})
    return Trees("vfs", make_root(layers_root, "vfs"), _Copies())


def open_btrfs(layers_root: str, options: Mapping[str, str] | None = None) -> Trees:
    """Open the ``btrfs`` driver.

    Raises:
        InvalidParameterError: an unknown option.
        UnsupportedError: the file system is another.
        SystemFailureError: the directory cannot be made.
    """
    least = btrfs_min_space(options or {})
    root = make_root(layers_root, "btrfs")
    fd = os.open(root, DIRECTORY)
    try:
        if file_system_type(fd) != btrfs.SUPER_MAGIC:
            raise UnsupportedError(f"btrfs: prerequisites for driver not satisfied (wrong filesystem?): {root}")
    finally:
        os.close(fd)
    return Trees("btrfs", root, _Subvolumes(least))


class _Copies:
    """Trees as plain directories."""

    status: tuple[tuple[str, str], ...] = ()
    slow = True

    def check_size(self, size: int) -> None:
        """Refuse a limit, as dockerd does where there are no project quotas."""
        if size:
            raise InvalidParameterError(UNSUPPORTED)

    def limit(self, fd: int, size: int) -> None:
        """There is no limit to set."""

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
    slow = False

    def __init__(self, least: int) -> None:
        self._least = least

    def check_size(self, size: int) -> None:
        """Refuse a limit that is too small."""
        if size and size < self._least:
            raise InvalidParameterError(f"btrfs: storage size cannot be less than {human_size(self._least)}")

    def limit(self, fd: int, size: int) -> None:
        """Let a subvolume have ``size`` bytes."""
        if size:
            btrfs.quota_enable(fd)
            btrfs.subvolume_limit(fd, size)

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
            with _opened(parent, name) as fd:
                number = btrfs.subvolume_id(fd)
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
        with contextlib.suppress(OSError):  # nobody counts, or its data is still being given back
            btrfs.quota_forget(parent, number)

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
    default_size = 0

    def __init__(self, name: str, root: str, trees: _Copies | _Subvolumes) -> None:
        self._name = name
        self._trees = trees
        self.slow = trees.slow
        self._snapshots = Snapshots(name, root, marker="active")
        self.keys = self._snapshots.keys
        compared = Comparison(self._compared)
        self.usage, self.diff = compared.usage, compared.diff
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
        self._trees.check_size(size)
        self._snapshots.prepare(key, parent, lambda draft, below: self._make(draft, below, size))

    def _make(self, draft: str, parent: str | None, size: int) -> None:
        root = self._snapshots.root_fd
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(_opened(root, os.fsencode(draft)))
            source = None if parent is None else stack.enter_context(_opened(root, f"{parent}/{_TREE}".encode()))
            self._trees.make(directory, source)
            tree = stack.enter_context(_opened(directory, _TREE.encode()))
            times = os.fstat(tree)
            os.fchmod(tree, 0o755)  # whatever the umask and the archive's root say
            os.utime(tree, ns=(times.st_atime_ns, times.st_mtime_ns))
            self._trees.limit(tree, size)

    def commit(self, key: str, name: str) -> None:
        """Turn an active snapshot into a committed one."""
        self._snapshots.commit(key, name)
        with self._snapshots.opened((name,), _TREE) as (fd,):
            self._trees.seal(fd)

    def replace(self, key: str, name: str) -> None:
        """Let an active snapshot take a committed one's place."""
        self._snapshots.check_replace(key, name)
        with self._snapshots.opened((key,), _TREE) as (fd,):
            self._trees.seal(fd)
        self._snapshots.replace(key, name)

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

    def tree(self, key: str) -> OverlayRoot:
        """Return the same, to be mounted."""
        return OverlayRoot((), upper=self.directory(key))

    def difference(self, key: str) -> Difference:
        """Return the snapshot's tree and the one that it began as."""
        tree = self.tree(key)
        parent = self._snapshots.parent(key)
        return Difference(tree, None if parent is None else self.tree(parent))

    def mounts(self, key: str, *, writable: bool = True) -> OverlayRoot:
        """Return how to mount the snapshot: its tree is bound."""
        tree = self.directory(key)
        return OverlayRoot((), upper=tree) if writable and self.is_active(key) else OverlayRoot((tree,))

    @contextlib.contextmanager
    def _compared(self, key: str) -> Iterator[tuple[int, int | None]]:
        self._snapshots.check(key)
        parent = self._snapshots.parent(key)
        with self._snapshots.opened((key,) if parent is None else (key, parent), _TREE) as fds:
            yield fds[0], fds[1] if parent is not None else None

    def describe(self, key: str) -> dict[str, str]:
        """Dockerd shows nothing for these drivers."""
        self._snapshots.check(key)
        return {}
