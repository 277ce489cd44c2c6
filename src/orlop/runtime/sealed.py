"""Starting the spawner from the sealed interpreter (``runtime.interpreter``)."""

from __future__ import annotations

import os
import socket
import sys

from orlop.kernel.process import pidfd_open
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.interpreter import open_sealed_interpreter, source_directory
from orlop.spec.record import dataclass

CHANNEL_FD = 3
_START = "import sys; sys.path.insert(0, {source!r}); from orlop.runtime.spawner import main; main({fd})"


@dataclass
class SpawnerProcess:
    """A started spawner: its pid, a pidfd, and the engine's end of its socket. Owned by the caller."""

    pid: int
    pidfd: OwnedFd
    socket: socket.socket


def start_spawner() -> SpawnerProcess:
    """Start a spawner from the sealed interpreter: isolated, without site-packages and with an empty environment.

    posix_spawn(3) only: the caller may have an event loop and threads.

    Raises:
        SystemFailureError: the interpreter cannot be sealed.
        OSError: no process could be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        path = os.path.realpath(sys.executable)
        with theirs, open_sealed_interpreter(path) as interpreter, OwnedFd(os.open(os.devnull, os.O_RDWR)) as null:
            command = _START.format(source=source_directory(), fd=CHANNEL_FD)
            arguments = [path, "-I", "-S", "-B", "-c", command]
            actions = [
                (os.POSIX_SPAWN_DUP2, null.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL_FD),
            ]
            if theirs.fileno() == CHANNEL_FD:
                os.set_inheritable(CHANNEL_FD, True)
                actions.pop()
            pid = os.posix_spawn(
                f"/proc/self/fd/{interpreter.fileno()}", arguments, {}, file_actions=actions, setsigmask=()
            )
            return SpawnerProcess(pid, OwnedFd(pidfd_open(pid)), ours)
    except BaseException:
        ours.close()
        raise
