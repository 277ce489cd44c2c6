"""Directories that are nobody's any more, and are removed when nobody waits for it.

Renaming is one step for the file system, whatever is in a directory: removing a container's logs can take seconds.
Whoever entombs hands the tombstone on, and looks for those of an earlier engine at its start.
"""

from __future__ import annotations

import os

_PREFIX = ".removed-"


def entomb(path: str, *, into: str = "") -> str:
    """Rename a directory to a name that nothing else has; returns the new path.

    Args:
        path: absolute; its parent belongs to the engine.
        into: a directory of the same file system, instead of the parent.

    Raises:
        OSError: it cannot be renamed, or (FileNotFoundError) is not there.
    """
    tombstone = f"{into or os.path.dirname(path)}/{_PREFIX}{os.urandom(8).hex()}"
    os.rename(path, tombstone)
    return tombstone


def tombstones(parent: str) -> list[str]:
    """Return what was entombed in a directory and is still there; nothing is in one that is missing."""
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return []
    return [f"{parent}/{name}" for name in names if name.startswith(_PREFIX)]
