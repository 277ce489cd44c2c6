"""The contract of a storage driver.

A *snapshot* is a directory tree made of a parent's tree and changes to it. It is *active* (changing) after
:meth:`Snapshotter.prepare` and *committed* (never changing again) after :meth:`Snapshotter.commit`. Image layers are
committed snapshots, a container's layer is an active one.

::

                prepare            commit
    (nothing) ──────────▶ active ──────────▶ committed
                            │ remove            │ remove (only without children)
                            ▼                   ▼
                         tombstone           tombstone
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orlop.spec.launch import OverlayRoot


class ChangeKind(enum.IntEnum):
    """How a path differs from the parent's; the numbers of Docker's API."""

    MODIFY = 0
    ADD = 1
    DELETE = 2


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One line of ``docker diff``: absolute path inside the root (bytes, as stored) and kind."""

    path: bytes
    kind: ChangeKind


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot itself holds, without its parents: bytes of its files (hard links once) and inodes."""

    size: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Where to find what a snapshot changes, to pack it as a layer.

    Attributes:
        tree: the changes, in overlay's form; or, with ``below``, the whole tree.
        below: the tree that it is to be compared with; None for no comparison.
    """

    tree: OverlayRoot
    below: OverlayRoot | None = None


class Snapshotter(Protocol):
    """A storage driver.

    Keys match ``[a-z0-9][a-z0-9_.-]{0,127}`` and name a snapshot of either kind; they become file names.

    Every method is synchronous and, unless it says otherwise, short (no walk, no waiting for a disk): the engine calls
    it from its event loop. Of a ``slow`` driver, ``prepare``, ``commit`` and ``replace`` may take long and are called
    from threads, several at once, while the loop calls other methods. After a crash at any instruction each method can
    be called again; what a driver had begun and not finished is listed by :meth:`keys` or :meth:`tombstones` and by
    nothing else, so that the caller, who knows what should exist, can remove it.

    No driver mounts anything in the engine's mount namespace.
    """

    slow: bool
    """Whether ``prepare``, ``commit`` and ``replace`` copy trees or wait for a disk (``orlop.storage.working``)."""

    whole: bool
    """Whether a snapshot's directory is its whole tree, to which a layer is applied, and not only its changes."""

    default_size: int
    """Bytes that a container may have that was given no size; 0 for no limit."""

    @property
    def name(self) -> str:
        """The driver's name, as ``docker info`` and ``--storage-driver`` spell it."""
        ...

    def status(self) -> tuple[tuple[str, str], ...]:
        """Return ``docker info``'s DriverStatus: pairs of label and value, in order."""
        ...

    def prepare(self, key: str, parent: str | None, *, size: int = 0) -> None:
        """Make an active snapshot, empty or with the content of the committed snapshot ``parent``.

        The new root directory has the owner of the parent's root, or root without a parent, and mode 0755 like Docker:
        an archive made of a private directory would else lock every user out of its containers.

        Args:
            key: the new snapshot's.
            parent: see above.
            size: bytes that its own files may take; 0 for no limit.

        Raises:
            InvalidParameterError: no limit is possible here, in dockerd's words.
            ConflictError: the key exists.
            NotFoundError: the parent does not exist, or is not committed.
            SystemFailureError: no space left on device and the like; nothing is left behind.
        """
        ...

    def commit(self, key: str, name: str) -> None:
        """Turn the active snapshot ``key`` into the committed snapshot ``name``, at once and as a whole.

        Raises:
            ConflictError: ``name`` exists.
            NotFoundError: there is no active snapshot ``key``.
        """
        ...

    def replace(self, key: str, name: str) -> None:
        """Let the active snapshot ``key`` take the place of the committed ``name``, at once and as a whole.

        What was ``name`` until then is called ``key``, is committed as well, and is for the caller to remove when
        nobody has it mounted. The snapshots that were made of ``name`` stay its children. One that was copied from it
        (``whole``) stays what it is; where changes are stacked, it has the new one below it when it is mounted next.

        Raises:
            ConflictError: they have not the same parent, ``name`` is active, or one is being made of it.
            NotFoundError: there is no active snapshot ``key``, or no ``name``.
            SystemFailureError: the file system cannot exchange two directories (renameat2).
        """
        ...

    def directory(self, key: str) -> str:
        """Return the absolute path of the directory that holds an active snapshot's changes.

        It is for this process, until the snapshot is committed or removed; another one mounts :meth:`tree`.
        """
        ...

    def tree(self, key: str) -> OverlayRoot:
        """Return how another process mounts that directory, as one tree.

        A layer's tar is unpacked there: whiteouts in overlay's form, or, where it is the ``whole`` tree, done at once.
        """
        ...

    def difference(self, key: str) -> Difference:
        """Return what there is to pack of the snapshot for a layer's tar (:mod:`orlop.primitives.tar`)."""
        ...

    def mounts(self, key: str, *, writable: bool = True) -> OverlayRoot:
        """Return how to mount the snapshot.

        Args:
            key: an active or committed snapshot.
            writable: mount an active snapshot for writing; only one such mount may exist at a time. Otherwise the view
                is read-only and may exist beside a writable one.
        """
        ...

    def remove(self, key: str) -> str | None:
        """Make the snapshot disappear at once; a missing one is fine.

        Returns:
            The path of what is left of it, which the caller removes when nobody waits (``remove_tree``), or None.

        Raises:
            ConflictError: another snapshot has it as its parent.
        """
        ...

    def tombstones(self) -> list[str]:
        """Return the paths that :meth:`remove` returned, now or before a crash, and that still exist."""
        ...

    def is_active(self, key: str) -> bool:
        """Tell whether the snapshot was not committed."""
        ...

    def keys(self) -> list[str]:
        """Return the keys of all snapshots, both kinds, whatever state a crash left them in."""
        ...

    def usage(self, key: str) -> Usage:
        """Return what the snapshot itself holds. Walks its files: call it from a thread."""
        ...

    def diff(self, key: str) -> list[Change]:
        """Return how the snapshot differs from its parent, by path. Walks its files: call it from a thread."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...

    def describe(self, key: str) -> dict[str, str]:
        """Return ``GraphDriver.Data`` of ``docker inspect``."""
        ...
