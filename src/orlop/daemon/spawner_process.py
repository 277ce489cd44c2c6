"""The spawner as a process of the engine: started, replaced and reaped."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from orlop.runtime.sealed import SpawnerProcess, start_spawner

if TYPE_CHECKING:
    import socket


class SpawnerStarter:
    """Starts a spawner each time it is called and reaps the one before; owns its pidfd."""

    def __init__(self) -> None:
        self._process: SpawnerProcess | None = None

    def __call__(self) -> socket.socket:
        """Start a spawner; return the engine's end of its socket.

        Raises:
            SystemFailureError, OSError: it cannot be started.
        """
        self._reap()
        self._process = start_spawner()
        return self._process.socket

    def _reap(self) -> None:
        if self._process is None:
            return
        with self._process.pidfd as pidfd, contextlib.suppress(ChildProcessError):
            # Its socket is closed, so it is dead or about to be: this is short.
            os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)
        self._process = None
