"""renameat2(2): rename with conditions."""

from __future__ import annotations

import os

from orlop.kernel.syscall import call

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def renameat2(old_dir_fd: int, old: bytes | str, new_dir_fd: int, new: bytes | str, flags: int) -> None:
    """Rename, or exchange two entries at once.

    Raises:
        SyscallError: among others EEXIST (RENAME_NOREPLACE), EINVAL (the file system cannot do it).
    """
    names = os.fsencode(old), os.fsencode(new)
    call(
        "renameat2",
        old_dir_fd,
        names[0],
        new_dir_fd,
        names[1],
        flags,
        shown=(old_dir_fd, names[0], new_dir_fd, names[1], hex(flags)),
    )
