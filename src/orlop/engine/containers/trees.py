"""Removing the engine's own directories: a few files and empty mount points, of whose names a container makes none."""

from __future__ import annotations

import contextlib
import os


def remove_flat(path: str) -> None:
    """Remove a directory and the files in it; a missing one is fine.

    Raises:
        OSError: it has a filled subdirectory.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(descriptor):
            try:
                os.unlink(name, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                # An empty mount point that a shim left when it was killed; anything more is refused.
                os.rmdir(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
