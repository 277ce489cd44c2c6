"""The default storage driver: one directory per layer, stacked by the kernel's overlay file system.

::

    <data-root>/layers/overlay2/        0710
      <key>/                            0710   a snapshot
        diff/                                  the root directory of its own changes
        parent                                 the parent's key; absent without parent
        work/                           0700   overlay's; only while active
      .removed-<number>-<key>/                 what remove() left to be deleted
      .new-<key>/                              a snapshot that prepare() had not finished

A snapshot appears by one rename and disappears by one rename. It is committed if it has no ``work``. Nobody but root
passes ``<key>/``, so that setuid files of images cannot be executed from the host (threats.md H6, CVE-2021-41091).

``parent`` files are read once and kept in memory; this object is the only one that changes the directory.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, SystemFailureError, UnsupportedError
from orlop.spec.launch import OverlayRoot
from orlop.storage import layered
from orlop.storage.probe import FileSystem, probe_overlay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.storage.contract import Change, Usage

NAME = "overlay2"
LAYER_LIMIT = 128
_KEY = re.compile("[a-z0-9][a-z0-9_.-]{0,127}")
_PRIVATE = 0o710
_REMOVED = ".removed-"
_GRAVE = re.compile(r"\.removed-([0-9]+)-.*")
_NEW = ".new-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_driver(layers_root: str) -> Overlay2:
    """Make the driver's directory below ``<data-root>/layers``, probe the file system and open the driver.

    Raises:
        UnsupportedError: the file system under it cannot hold overlay's layers; the message says why.
        SystemFailureError: the directory cannot be made.
    """
    root = os.path.join(layers_root, NAME)
    try:
        for path in (layers_root, root):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, _PRIVATE)
        return Overlay2(root, probe_overlay(root))
    except OSError as error:
        raise SystemFailureError(f"{NAME}: {root}: {(error.strerror or '').lower()}") from error


class Overlay2:
    """Owns the directory drawn above. See :class:`orlop.storage.contract.Snapshotter` for what each method promises."""

    def __init__(self, root: str, file_system: FileSystem) -> None:
        self._root = root
        self._file_system = file_system
        self._root_fd = os.open(root, _DIRECTORY)
        self._parents: dict[str, str | None] = {}
        self._children: dict[str, int] = {}
        self._removals = 0
        self._load()

    @property
    def name(self) -> str:
        """``overlay2``."""
        return NAME

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root_fd)

    def status(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs that dockerd shows for overlay2."""
        return (
            ("Backing Filesystem", self._file_system.name),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )

    def _load(self) -> None:
        with os.scandir(self._root_fd) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name.startswith(_NEW):
                self._bury(name)
            elif _KEY.fullmatch(name):
                self._parents[name] = self._read_parent(name)
        for parent in self._parents.values():
            if parent is not None:
                self._children[parent] = self._children.get(parent, 0) + 1
        graves = [match for name in os.listdir(self._root_fd) if (match := _GRAVE.fullmatch(name))]
        self._removals = max((int(match[1]) for match in graves), default=0)

    def _removed(self) -> list[str]:
        return [name for name in os.listdir(self._root_fd) if _GRAVE.fullmatch(name) or name.startswith(".probe-")]

    def _read_parent(self, key: str) -> str | None:
        try:
            fd = os.open(f"{key}/parent", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
        except FileNotFoundError:
            return None
        try:
            return os.read(fd, 256).decode("ascii").rstrip("\n")
        finally:
            os.close(fd)

    def is_active(self, key: str) -> bool:
        """Tell whether the snapshot was not committed."""
        return key in self._parents and self._is_active(key)

    def keys(self) -> list[str]:
        """Return the keys of all snapshots."""
        return list(self._parents)

    def prepare(self, key: str, parent: str | None) -> None:
        """Make an active snapshot."""
        _check_key(key)
        if key in self._parents:
            raise ConflictError(f"snapshot exists: {key}")
        if parent is not None:
            self._check_committed(parent)
            if len(self._chain(parent)) >= LAYER_LIMIT:
                raise InvalidParameterError("max depth exceeded")
        draft = _NEW + key
        try:
            self._make(draft, parent)
            os.rename(draft, key, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._bury(draft)
            raise SystemFailureError(f"{NAME}: prepare {key}: {(error.strerror or '').lower()}") from error
        self._parents[key] = parent
        if parent is not None:
            self._children[parent] = self._children.get(parent, 0) + 1

    def _make(self, draft: str, parent: str | None) -> None:
        root = self._root_fd
        os.mkdir(draft, _PRIVATE, dir_fd=root)
        os.mkdir(f"{draft}/diff", 0o755, dir_fd=root)
        os.mkdir(f"{draft}/work", 0o700, dir_fd=root)
        fd = os.open(f"{draft}/diff", _DIRECTORY, dir_fd=root)
        try:
            os.fchmod(fd, 0o755)  # whatever the umask is
            if parent is not None:
                above = os.stat(f"{parent}/diff", dir_fd=root, follow_symlinks=False)
                if above.st_uid or above.st_gid:
                    os.fchown(fd, above.st_uid, above.st_gid)
        finally:
            os.close(fd)
        if parent is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(f"{draft}/parent", flags, 0o600, dir_fd=root)
            try:
                os.write(fd, parent.encode("ascii"))
            finally:
                os.close(fd)

    def commit(self, key: str, name: str) -> None:
        """Turn an active snapshot into a committed one."""
        _check_key(name)
        if key not in self._parents or not self._is_active(key):
            raise NotFoundError(f"no active snapshot: {key}")
        if name in self._parents:
            raise ConflictError(f"snapshot exists: {name}")
        try:
            self._removals += 1
            grave = f"{_REMOVED}{self._removals}-{key}"
            os.rename(f"{key}/work", grave, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
            os.rename(key, name, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
            with contextlib.suppress(OSError):  # overlay's work/work is there if it was mounted; tombstones() has it
                os.rmdir(grave, dir_fd=self._root_fd)
        except OSError as error:
            raise SystemFailureError(f"{NAME}: commit {key}: {(error.strerror or '').lower()}") from error
        self._parents[name] = self._parents.pop(key)

    def directory(self, key: str) -> str:
        """Return the directory that holds a snapshot's changes."""
        self._check(key)
        return f"{self._root}/{key}/diff"

    def mounts(self, key: str, *, writable: bool = True) -> OverlayRoot:
        """Return how to mount the snapshot."""
        self._check(key)
        chain = self._chain(key)
        paths = tuple(f"{self._root}/{layer}/diff" for layer in chain)
        if not writable or not self._is_active(key):
            return OverlayRoot(paths)
        lower = paths[1:]
        if not lower:
            raise InvalidParameterError(f"snapshot has no parent to be mounted over: {key}")
        return OverlayRoot(lower, upper=paths[0], work=f"{self._root}/{key}/work")

    def remove(self, key: str) -> str | None:
        """Make the snapshot disappear; return what is left of it."""
        if key not in self._parents:
            return None
        if self._children.get(key):
            raise ConflictError(f"snapshot has children: {key}")
        try:
            path = self._bury(key)
        except OSError as error:
            raise SystemFailureError(f"{NAME}: remove {key}: {(error.strerror or '').lower()}") from error
        parent = self._parents.pop(key)
        if parent is not None:
            self._children[parent] -= 1
        return path

    def _bury(self, name: str) -> str:
        self._removals += 1
        grave = f"{_REMOVED}{self._removals}-{name.lstrip('.')}"
        os.rename(name, grave, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        return f"{self._root}/{grave}"

    def tombstones(self) -> list[str]:
        """Return what is left to be deleted."""
        return [f"{self._root}/{name}" for name in self._removed()]

    def usage(self, key: str) -> Usage:
        """Walk and measure the snapshot's own files."""
        self._check(key)
        with self._open_layers((key,)) as (fd,):
            return layered.measure(fd)

    def diff(self, key: str) -> list[Change]:
        """Walk the snapshot's own files and compare them with what is below."""
        self._check(key)
        with self._open_layers(self._chain(key)) as (upper, *lower):
            return layered.find_changes(upper, lower)

    def describe(self, key: str) -> dict[str, str]:
        """Return the paths that dockerd shows, but for MergedDir: nothing is mounted on the host."""
        self._check(key)
        paths = [f"{self._root}/{layer}/diff" for layer in self._chain(key)]
        data = {"UpperDir": paths[0], "WorkDir": f"{self._root}/{key}/work"}
        if paths[1:]:
            data["LowerDir"] = ":".join(paths[1:])
        return data

    def _chain(self, key: str) -> list[str]:
        """Return the key and its ancestors, topmost first."""
        chain = [key]
        parent = self._parents[key]
        while parent is not None:
            chain.append(parent)
            parent = self._parents.get(parent)
        return chain

    def _check(self, key: str) -> None:
        if key not in self._parents:
            raise NotFoundError(f"no such snapshot: {key}")

    def _check_committed(self, key: str) -> None:
        self._check(key)
        if self._is_active(key):
            raise NotFoundError(f"snapshot is not committed: {key}")

    def _is_active(self, key: str) -> bool:
        try:
            os.stat(f"{key}/work", dir_fd=self._root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _open_layers(self, keys: tuple[str, ...] | list[str]) -> Iterator[list[int]]:
        fds: list[int] = []
        try:
            fds.extend(os.open(f"{key}/diff", _DIRECTORY, dir_fd=self._root_fd) for key in keys)
            yield fds
        except OSError as error:
            raise SystemFailureError(f"{NAME}: {keys[0]}: {(error.strerror or '').lower()}") from error
        finally:
            for fd in fds:
                os.close(fd)


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidParameterError(f"invalid snapshot key: {key!r:.80}")


def is_supported(layers_root: str) -> bool:
    """Tell whether this driver works on the file system of an existing directory."""
    try:
        probe_overlay(layers_root)
    except UnsupportedError:
        return False
    return True
