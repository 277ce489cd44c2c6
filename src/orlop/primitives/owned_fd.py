"""File descriptors with exactly one owner."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class OwnedFd:
    """Owns one descriptor and closes it exactly once.

    There is no finaliser: after a fork the child closes everything with ``close_range`` and must not run
    ``__del__`` of the parent's objects. Use ``with`` or :meth:`close`.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        if fd < 0:
            raise ValueError(f"not a descriptor: {fd}")
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor. Raises ValueError after it was closed or released."""
        if self._fd < 0:
            raise ValueError("descriptor is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or released."""
        return self._fd < 0

    def release(self) -> int:
        """Give the descriptor away: the caller owns it now."""
        fd, self._fd = self.fileno(), -1
        return fd

    def close(self) -> None:
        """Close; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def duplicate(self) -> OwnedFd:
        """Return a second, close-on-exec descriptor of the same open file."""
        return OwnedFd(os.dup(self.fileno()))

    def __enter__(self) -> OwnedFd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._fd})"
