"""Who else can write what the engine executes as root: its own files, the interpreter and its library (J8)."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.runtime.interpreter import source_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def executed_paths() -> tuple[str, ...]:
    """Return the interpreter, its standard library and orlop's package."""
    return (os.path.realpath(sys.executable), os.path.dirname(os.__file__), f"{source_directory()}/orlop")


def require_trusted(paths: Iterable[str]) -> list[str]:
    """Look at files, and at directories with what is in them; returns what one user beside root can write.

    That user has chosen to have his files executed (``sudo`` in his own checkout); everybody has not.

    Raises:
        SystemFailureError: everybody can write one of them.
    """
    owned = []
    for path in paths:
        for found in _within(path):
            try:
                status = os.lstat(found)
            except FileNotFoundError:
                continue  # Python replaces files of its caches
            if stat.S_ISLNK(status.st_mode):
                continue
            kept = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            if status.st_mode & stat.S_IWOTH and not kept:
                raise SystemFailureError(f"everybody can write what would be executed as root: {found}")
            if status.st_uid not in {0, os.geteuid()} or (status.st_mode & stat.S_IWGRP and status.st_gid != 0):
                owned.append(found)
    return owned


def _within(path: str) -> Iterator[str]:
    yield path
    for directory, _, names in os.walk(path):
        for name in names:
            yield f"{directory}/{name}"
        if directory != path:
            yield directory
