"""eventfd(2): a counter that can be waited for."""

from __future__ import annotations

import os


def eventfd(initial: int = 0, *, flags: int = os.EFD_CLOEXEC | os.EFD_NONBLOCK) -> int:
    """Return a new event descriptor. Raises OSError."""
    return os.eventfd(initial, flags)


def drain(fd: int) -> int:
    """Return the counter and set it to zero; 0 when nothing happened. ``fd`` must be non-blocking."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
