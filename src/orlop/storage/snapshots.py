"""The directory in which a driver keeps its snapshots, and what every driver does with it alike.

::

    <data-root>/layers/<driver>/        0710
      <key>/                            0710   a snapshot
        <marker>/                       0700   only while active
        parent                                 the parent's key; absent without parent
        ...                                    what the driver keeps
      .removed-<random>/                       what remove() left to be deleted
      .new-<key>/                              a snapshot that prepare() had not finished

A snapshot appears by one rename and disappears by one rename; one that takes another's place is exchanged for it.
Nobody but root passes ``<key>/``, so that setuid files of images cannot be executed from the host (threats.md H6,
CVE-2021-41091).

``parent`` files are read once and kept in memory; this object is the only one that changes the directory. Its methods
may be called from several threads: what takes long happens in ``.new-<key>``, which nobody else knows of.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.kernel.renameat2 import RENAME_EXCHANGE, renameat2
from orlop.primitives.tombstones import entomb, tombstones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LAYER_LIMIT = 128
_KEY = re.compile("[a-z0-9][a-z0-9_.-]{0,127}")
_PRIVATE = 0o710
_NEW = ".new-"
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_root(layers_root: str, driver: str) -> str:
    """Make ``<data-root>/layers/<driver>`` with its modes, and return it. Raises SystemFailureError."""
    root = os.path.join(layers_root, driver)
    try:
        for path in (layers_root, root):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, _PRIVATE)
    except OSError as error:
        raise SystemFailureError(f"{driver}: {root}: {(error.strerror or '').lower()}") from error
    return root


class Snapshots:
    """Owns the directory drawn above.

    Args:
        driver: its name, for messages.
        root: the directory.
        marker: name of the directory that an active snapshot has and a committed one has not.
    """

    def __init__(self, driver: str, root: str, *, marker: str) -> None:
        self.root = root
        self.root_fd = os.open(root, DIRECTORY)
        self._driver = driver
        self._marker = marker
        self._parents: dict[str, str | None] = {}
        self._children: dict[str, int] = {}
        self._preparing: dict[str, str | None] = {}  # with their parents
        self._changing = threading.RLock()
        self._load()

    def close(self) -> None:
        """Close the directory."""
        os.close(self.root_fd)

    def _load(self) -> None:
        with os.scandir(self.root_fd) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if name.startswith(_NEW):
                entomb(f"{self.root}/{name}")
            elif _KEY.fullmatch(name) and os.path.isdir(f"{self.root}/{name}"):
                self._parents[name] = self._read_parent(name)
        for parent in self._parents.values():
            if parent is not None:
                self._children[parent] = self._children.get(parent, 0) + 1

    def _read_parent(self, key: str) -> str | None:
        try:
            fd = os.open(f"{key}/parent", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.root_fd)
        except FileNotFoundError:
            return None
        try:
            return os.read(fd, 256).decode("ascii").rstrip("\n")
        finally:
            os.close(fd)

    # Looking.

    def keys(self) -> list[str]:
        """Return the keys of all snapshots."""
        return list(self._parents)

    def parent(self, key: str) -> str | None:
        """Return the parent's key."""
        return self._parents[key]

    def chain(self, key: str) -> list[str]:
        """Return the key and its ancestors, topmost first."""
        chain = [key]
        parent = self._parents[key]
        while parent is not None:
            chain.append(parent)
            parent = self._parents.get(parent)
        return chain

    def check(self, key: str) -> None:
        """Raise NotFoundError if there is no such snapshot."""
        if key not in self._parents:
            raise NotFoundError(f"no such snapshot: {key}")

    def is_active(self, key: str) -> bool:
        """Tell whether the snapshot is there and not committed."""
        if key not in self._parents:
            return False
        try:
            os.stat(f"{key}/{self._marker}", dir_fd=self.root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def opened(self, keys: Sequence[str], part: str) -> Iterator[list[int]]:
        """Open a directory of each of these snapshots. Raises SystemFailureError, also for what is done meanwhile."""
        fds: list[int] = []
        try:
            fds.extend(os.open(f"{key}/{part}", DIRECTORY, dir_fd=self.root_fd) for key in keys)
            yield fds
        except OSError as error:
            raise SystemFailureError(f"{self._driver}: {keys[0]}: {(error.strerror or '').lower()}") from error
        finally:
            for fd in fds:
                os.close(fd)

    # Changing.

    def prepare(self, key: str, parent: str | None, fill: Callable[[str, str | None], None]) -> None:
        """Make an active snapshot; ``fill`` gets the unfinished one's directory (in ``root_fd``) and the parent."""
        _check_key(key)
        with self._changing:
            self._reserve(key, parent)
        draft = _NEW + key
        try:
            self._make(draft, parent)
            fill(draft, parent)
            with self._changing:
                os.rename(draft, key, src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd)
                self._parents[key] = parent
                self._preparing.pop(key, None)
        except OSError as error:
            self._give_up(key, parent)
            raise SystemFailureError(f"{self._driver}: prepare {key}: {(error.strerror or '').lower()}") from error
        except BaseException:
            self._give_up(key, parent)
            raise

    def _reserve(self, key: str, parent: str | None) -> None:
        """Keep the name for us, and the parent where it is."""
        if key in self._parents or key in self._preparing:
            raise ConflictError(f"snapshot exists: {key}")
        if parent is not None:
            self.check(parent)
            if self.is_active(parent):
                raise NotFoundError(f"snapshot is not committed: {parent}")
            if len(self.chain(parent)) >= LAYER_LIMIT:
                raise InvalidParameterError("max depth exceeded")
            self._children[parent] = self._children.get(parent, 0) + 1
        self._preparing[key] = parent

    def _give_up(self, key: str, parent: str | None) -> None:
        with self._changing:
            with contextlib.suppress(OSError):
                entomb(f"{self.root}/{_NEW}{key}")
            self._preparing.pop(key, None)
            if parent is not None:
                self._children[parent] -= 1

    def _make(self, draft: str, parent: str | None) -> None:
        os.mkdir(draft, _PRIVATE, dir_fd=self.root_fd)
        os.mkdir(f"{draft}/{self._marker}", 0o700, dir_fd=self.root_fd)
        if parent is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(f"{draft}/parent", flags, 0o600, dir_fd=self.root_fd)
            try:
                os.write(fd, parent.encode("ascii"))
            finally:
                os.close(fd)

    def commit(self, key: str, name: str) -> None:
        """Turn an active snapshot into a committed one."""
        _check_key(name)
        with self._changing:
            self._commit(key, name)

    def _commit(self, key: str, name: str) -> None:
        if not self.is_active(key):
            raise NotFoundError(f"no active snapshot: {key}")
        if name in self._parents:
            raise ConflictError(f"snapshot exists: {name}")
        self._settle(key, lambda: os.rename(key, name, src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd))
        self._parents[name] = self._parents.pop(key)

    def replace(self, key: str, name: str) -> None:
        """Let an active snapshot and a committed one change places; both are committed then."""
        with self._changing:
            self.check_replace(key, name)
            self._settle(key, lambda: renameat2(self.root_fd, key, self.root_fd, name, RENAME_EXCHANGE))

    def check_replace(self, key: str, name: str) -> None:
        """Raise ConflictError or NotFoundError if :meth:`replace` would."""
        if not self.is_active(key):
            raise NotFoundError(f"no active snapshot: {key}")
        self.check(name)
        if self.is_active(name) or self._parents[key] != self._parents[name]:
            raise ConflictError(f"snapshot cannot take this one's place: {name}")
        if name in self._preparing.values():
            raise ConflictError(f"snapshot is in use: {name}")

    def _settle(self, key: str, rename: Callable[[], None]) -> None:
        """Take away the mark that a snapshot is active, and rename it."""
        try:
            tombstone = entomb(f"{self.root}/{key}/{self._marker}", into=self.root)
            rename()
            with contextlib.suppress(OSError):  # what the kernel made in it is left to tombstones()
                os.rmdir(tombstone)
        except OSError as error:
            raise SystemFailureError(f"{self._driver}: commit {key}: {(error.strerror or '').lower()}") from error

    def remove(self, key: str) -> str | None:
        """Make the snapshot disappear; return what is left of it."""
        with self._changing:
            return self._remove(key)

    def _remove(self, key: str) -> str | None:
        if key not in self._parents:
            return None
        if self._children.get(key):
            raise ConflictError(f"snapshot has children: {key}")
        try:
            path = entomb(f"{self.root}/{key}")
        except OSError as error:
            raise SystemFailureError(f"{self._driver}: remove {key}: {(error.strerror or '').lower()}") from error
        parent = self._parents.pop(key)
        if parent is not None:
            self._children[parent] -= 1
        return path

    def tombstones(self) -> list[str]:
        """Return what is left to be deleted."""
        probes = [f"{self.root}/{name}" for name in os.listdir(self.root) if name.startswith(".probe-")]
        return [*tombstones(self.root), *probes]


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise InvalidParameterError(f"invalid snapshot key: {key!r:.80}")
