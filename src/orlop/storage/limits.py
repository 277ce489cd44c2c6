"""How much a container's layer may hold (``--storage-opt size=``), by project quotas of ext4 and xfs.

Overlay's upper and work directory belong to a project of their own, with a limit; what the container makes inherits it.
A project's number is chosen at random among those that nobody uses, so that engines that share a file system do not
meet; it is read from the directory again when the layer is removed.
"""

from __future__ import annotations

import os
import re
import secrets
from decimal import Decimal
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import quota
from orlop.kernel.statfs import file_system_type

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST, _NUMBERS, _ATTEMPTS = 1 << 30, 1 << 29, 100
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?) ?([kmgtp]?)i?b?")
_LARGEST = 1 << 63
UNSUPPORTED = "--storage-opt is supported only for overlay over xfs or ext4 with project quotas (mount option prjquota)"


def parse_storage_options(options: Mapping[str, str] | None) -> int:
    """Return the bytes of ``size``; 0 without one.

    Raises:
        InvalidParameterError: an unknown option or no size.
    """
    for name in options or {}:
        if name.lower() != "size":
            raise InvalidParameterError(f"unknown option {name}")
    text = next(iter((options or {}).values()), "")
    return parse_size(text) if text else 0


def parse_size(text: str) -> int:
    """Return the bytes of ``10G``, ``1.5 GiB`` or ``1024``; units are powers of 1024 (docker's ``RAMInBytes``).

    Raises:
        InvalidParameterError: "invalid size: 'x'".
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidParameterError(f"invalid size: '{text}'")
    number = Decimal(match[1]) * _UNITS[match[2]]
    if number >= _LARGEST:
        raise InvalidParameterError(f"invalid size: '{text}'")
    return int(number)


def human_size(size: int) -> str:
    """Return bytes as dockerd writes them: ``10.74GB``, units of 1000 and four digits (docker's ``HumanSize``)."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.4g}{unit}"
        number /= 1000
    return f"{number:.4g}PB"


class Limits:
    """Limits on the file system that holds ``root_fd``."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._magic = file_system_type(root_fd)
        known = self._magic in {quota.EXT4_SUPER_MAGIC, quota.XFS_SUPER_MAGIC}
        self.offered = known and quota.is_enforced(root_fd, self._magic)

    def require(self) -> None:
        """Raise InvalidParameterError, in dockerd's words, if there can be no limit here."""
        if not self.offered:
            raise InvalidParameterError(UNSUPPORTED)

    def limit(self, directories: tuple[str, ...], size: int) -> None:
        """Put empty directories (below ``root_fd``) into a new project that may have ``size`` bytes.

        Raises:
            OSError: the file system refused.
        """
        project = self._free_project()
        quota.set_limit(self._root_fd, self._magic, project, size)
        for path in directories:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
            try:
                quota.set_project(fd, project)
            finally:
                os.close(fd)

    def release(self, path: str) -> None:
        """Take the limit of the project of a directory away, if it has one of ours."""
        if not self.offered:
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
        except OSError:
            return
        try:
            project = quota.project_of(fd)
            if project >= _FIRST:
                quota.set_limit(self._root_fd, self._magic, project, 0)
        except OSError:
            return
        finally:
            os.close(fd)

    def _free_project(self) -> int:
        for _ in range(_ATTEMPTS):
            project = _FIRST + secrets.randbelow(_NUMBERS)
            if not quota.is_used(self._root_fd, self._magic, project):
                return project
        raise SystemFailureError("no free project for a quota")
