"""A tmpfs that begins with what it covers (``tmpcopyup``). Only for configurations with such a mount."""

from __future__ import annotations

import os

from orlop.primitives.copy_up import copy_up
from orlop.primitives.owned_fd import OwnedFd

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def copy_covered(covered_fd: int, tmpfs_fd: int) -> None:
    """Copy the directory that a tmpfs is about to cover into it, owner, mode and times of the top included.

    Args:
        covered_fd: descriptor of the directory in the root.
        tmpfs_fd: descriptor of the detached, writable mount.

    Raises:
        SystemFailureError: it does not fit.
    """
    with (
        OwnedFd(os.open(".", _DIRECTORY, dir_fd=covered_fd)) as source,
        OwnedFd(os.open(".", _DIRECTORY, dir_fd=tmpfs_fd)) as target,
    ):
        copy_up(source.fileno(), target.fileno())
