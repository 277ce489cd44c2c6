"""The default storage driver: one directory of changes per layer, stacked by the kernel's overlay file system.

::

    <data-root>/layers/overlay2/<key>/  (orlop.storage.snapshots)
      diff/                                    the root directory of its own changes
      work/                           0700     overlay's; only while active
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.spec.launch import OverlayRoot
from orlop.storage import layered
from orlop.storage.contract import Difference
from orlop.storage.limits import Limits
from orlop.storage.options import overlay2_size
from orlop.storage.probe import FileSystem, probe_overlay
from orlop.storage.snapshots import DIRECTORY, LAYER_LIMIT, Snapshots, make_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.storage.contract import Change, Usage

NAME = "overlay2"


def open_driver(layers_root: str, options: Mapping[str, str] | None = None) -> Overlay2:
    """Make the driver's directory below ``<data-root>/layers``, probe the file system and open the driver.

    Raises:
        InvalidParameterError: an unknown option.
        UnsupportedError: the file system under it cannot hold overlay's layers; the message says why.
        SystemFailureError: the directory cannot be made.
    """
    size = overlay2_size(options or {})
    root = make_root(layers_root, NAME)
    try:
        return Overlay2(root, probe_overlay(root), size)
    except OSError as error:
        raise SystemFailureError(f"{NAME}: {root}: {(error.strerror or '').lower()}") from error


class Overlay2:
    """See :class:`orlop.storage.contract.Snapshotter` for what each method promises."""

    whole = False
    slow = False

    def __init__(self, root: str, file_system: FileSystem, size: int = 0) -> None:
        self._file_system = file_system
        self._snapshots = Snapshots(NAME, root, marker="work")
        self._limits = Limits(self._snapshots.root_fd)
        self.keys = self._snapshots.keys
        self.is_active = self._snapshots.is_active
        self.commit = self._snapshots.commit
        self.replace = self._snapshots.replace
        self.tombstones = self._snapshots.tombstones
        self.close = self._snapshots.close
        self.default_size = size
        if size and not self._limits.offered:
            self.close()
            message = "Storage option overlay2.size not supported. Filesystem does not support Project Quota"
            raise InvalidParameterError(message)

    @property
    def name(self) -> str:
        """``overlay2``."""
        return NAME

    def status(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs that dockerd shows for overlay2."""
        return (
            ("Backing Filesystem", self._file_system.name),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )

    def prepare(self, key: str, parent: str | None, *, size: int = 0) -> None:
        """Make an active snapshot."""
        if not size:
            self._snapshots.prepare(key, parent, self._make)
            return
        self._limits.require()

        def make(draft: str, parent: str | None) -> None:
            self._make(draft, parent)
            self._limits.limit((f"{draft}/diff", f"{draft}/work"), size)

        self._snapshots.prepare(key, parent, make)

    def remove(self, key: str) -> str | None:
        """Make the snapshot disappear; return what is left of it."""
        if self._limits.offered and self.is_active(key):
            self._limits.release(f"{key}/diff")
        return self._snapshots.remove(key)

    def _make(self, draft: str, parent: str | None) -> None:
        root = self._snapshots.root_fd
        os.mkdir(f"{draft}/diff", 0o755, dir_fd=root)
        fd = os.open(f"{draft}/diff", DIRECTORY, dir_fd=root)
        try:
            os.fchmod(fd, 0o755)  # whatever the umask is
            if parent is not None:
                above = os.stat(f"{parent}/diff", dir_fd=root, follow_symlinks=False)
                if above.st_uid or above.st_gid:
                    os.fchown(fd, above.st_uid, above.st_gid)
        finally:
            os.close(fd)

    def directory(self, key: str) -> str:
        """Return the directory that holds a snapshot's changes."""
        self._snapshots.check(key)
        return f"{self._snapshots.root}/{key}/diff"

    def tree(self, key: str) -> OverlayRoot:
        """Return the same, to be mounted."""
        return OverlayRoot((), upper=self.directory(key))

    def difference(self, key: str) -> Difference:
        """Return the directory that holds a snapshot's changes and nothing else."""
        return Difference(self.tree(key))

    def mounts(self, key: str, *, writable: bool = True) -> OverlayRoot:
        """Return how to mount the snapshot."""
        self._snapshots.check(key)
        root = self._snapshots.root
        paths = tuple(f"{root}/{layer}/diff" for layer in self._snapshots.chain(key))
        if not writable or not self.is_active(key):
            return OverlayRoot(paths)
        lower = paths[1:]
        if not lower:
            raise InvalidParameterError(f"snapshot has no parent to be mounted over: {key}")
        return OverlayRoot(lower, upper=paths[0], work=f"{root}/{key}/work")

    def usage(self, key: str) -> Usage:
        """Walk and measure the snapshot's own files."""
        self._snapshots.check(key)
        with self._snapshots.opened((key,), "diff") as (fd,):
            return layered.measure(fd)

    def diff(self, key: str) -> list[Change]:
        """Walk the snapshot's own files and compare them with what is below."""
        self._snapshots.check(key)
        with self._snapshots.opened(self._snapshots.chain(key), "diff") as (upper, *lower):
            return layered.find_changes(upper, lower)

    def describe(self, key: str) -> dict[str, str]:
        """Return the paths that dockerd shows, but for MergedDir: nothing is mounted on the host."""
        self._snapshots.check(key)
        root = self._snapshots.root
        paths = [f"{root}/{layer}/diff" for layer in self._snapshots.chain(key)]
        data = {"UpperDir": paths[0], "WorkDir": f"{root}/{key}/work"}
        if paths[1:]:
            data["LowerDir"] = ":".join(paths[1:])
        return data


__all__ = ["LAYER_LIMIT", "NAME", "Overlay2", "open_driver"]
