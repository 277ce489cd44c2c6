"""What a layer's ``.wh.`` members do to a tree that holds the lower layers' files as well: they remove them.

A whiteout hides what is below, never what the same layer brings, in whatever order the members come (OCI image-spec,
layer.md): what the layer has brought so far is remembered by its path.
"""

from __future__ import annotations

import os
import stat

from orlop.primitives.removal import remove_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.tar.directories import Directories

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Whiteouts:
    """Removes what a layer deletes; paths are clean and relative."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._brought: set[bytes] = set()

    def bring(self, path: bytes) -> None:
        """Note that the layer has this path, and so its parents."""
        while path and path not in self._brought:
            self._brought.add(path)
            path = path.rpartition(b"/")[0]

    def has_brought(self, path: bytes) -> bool:
        """Tell whether the layer has this path."""
        return path in self._brought

    def hide(self, path: bytes) -> None:
        """Remove what is at the path, but for what the layer has brought below it."""
        head, _, name = path.rpartition(b"/")
        parent = os.dup(self._directories.open(head))
        try:
            try:
                mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return
            if path not in self._brought:
                self._directories.forget()
                remove_entry(parent, name)
            elif stat.S_ISDIR(mode):
                self._empty(parent, name, path)
        finally:
            os.close(parent)

    def empty(self, path: bytes) -> None:
        """Remove everything in a directory, but for what the layer has brought."""
        self._empty(self._directories.open(path), b".", path)

    def _empty(self, parent: int, name: bytes, path: bytes) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            names = [os.fsencode(text) for text in os.listdir(fd)]
        finally:
            os.close(fd)
        for inner in names:
            self.hide(path + b"/" + inner if path else inner)
