"""Deletes thin devices when nobody waits for it, and as soon as nobody uses them (deferred deletion)."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from orlop.errors import OrlopError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)
# Seconds between attempts at devices that somebody still has mounted; each time twice as many.
_FIRST, _LONGEST = 0.05, 10.0


class Reaper:
    """Owns a thread, which there is only while there is something to delete.

    Args:
        delete: deletes one device; False if it is in use.
    """

    def __init__(self, delete: Callable[[int], bool]) -> None:
        self._delete = delete
        self._waiting: dict[int, int] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """How many devices are to be deleted."""
        return len(self._waiting)

    def add(self, number: int, mounted: int = -1) -> None:
        """Delete a device soon, and close the descriptor of a mount of it, which may take as long as its disk needs."""
        with self._changed:
            if self._closed:
                if mounted >= 0:
                    os.close(mounted)
                return
            self._waiting[number] = mounted
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="devicemapper", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop; what is left is deleted at the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        for mounted in self._waiting.values():
            if mounted >= 0:
                os.close(mounted)

    def _work(self) -> None:
        pause = _FIRST
        while True:
            with self._changed:
                if self._closed or not self._waiting:
                    self._thread = None
                    return
                numbers = list(self._waiting)
            busy = [number for number in numbers if not self._try(number)]
            with self._changed:
                if len(busy) < len(numbers):
                    pause = _FIRST
                if busy and len(self._waiting) == len(busy) and not self._closed:
                    self._changed.wait(pause)
                    pause = min(2 * pause, _LONGEST)

    def _try(self, number: int) -> bool:
        if self._closed:
            return False
        with self._changed:
            mounted, self._waiting[number] = self._waiting[number], -1
        if mounted >= 0:
            os.close(mounted)
        try:
            done = self._delete(number)
        except (OSError, OrlopError):
            _log.exception("cannot delete thin device %d", number)
            done = True  # the next start tries again
        if done:
            with self._changed:
                self._waiting.pop(number, None)
        return done
