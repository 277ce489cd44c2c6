"""A tmpfs that begins with what it covers (``tmpcopyup``). Only for configurations with such a mount."""

from __future__ import annotations

import os
import stat

from orlop.primitives.copy_up import copy_up
from orlop.primitives.owned_fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def copy_covered(covered_fd: int, tmpfs_fd: int, parameters: Sequence[str]) -> None:
    """Copy the directory that a tmpfs is about to cover into it, with times, owner and mode of the top.

    Args:
        covered_fd: descriptor of the directory in the root.
        tmpfs_fd: descriptor of the detached, writable mount.
        parameters: of the tmpfs (tmpfs(5)): an owner or mode that was asked for stays.

    Raises:
        SystemFailureError: it does not fit.
    """
    with (
        OwnedFd(os.open(".", _DIRECTORY, dir_fd=covered_fd)) as source,
        OwnedFd(os.open(".", _DIRECTORY, dir_fd=tmpfs_fd)) as target,
    ):
        made = os.fstat(target.fileno())
        copy_up(source.fileno(), target.fileno())
        given = {text.partition("=")[0] for text in parameters}
        if given & {"uid", "gid"}:
            os.chown(target.fileno(), made.st_uid if "uid" in given else -1, made.st_gid if "gid" in given else -1)
        if "mode" in given:
            os.chmod(target.fileno(), stat.S_IMODE(made.st_mode))
