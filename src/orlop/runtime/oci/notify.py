"""Readiness of a container's program for the service manager that runs the runtime: sd_notify(3), as runc hands it on.

The program gets a socket of its own in ``/run/notify``, never the manager's: of what it sends only that it is ready is
passed on, with the pid that the manager is to watch from then on. Loaded only where NOTIFY_SOCKET is set.
"""

from __future__ import annotations

import os
import select
import socket

from orlop.errors import SystemFailureError
from orlop.primitives.scope import suppress
from orlop.runtime.oci.state import NOTIFY
from orlop.spec.oci.config import Mount
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Config

_DIRECTORY = "/run/notify"
_NAME = "notify.sock"
_OPTIONS = ("bind", "nosuid", "noexec", "nodev", "ro")
_LARGEST = 4096
_MOST = 1024  # messages at once: more than the kernel keeps, so that all of a program that ended are read
_BARRIER_MS = 30_000  # as long as systemd's own clients wait


def with_notifications(config: Config, state_directory: str) -> Config:
    """Return a configuration whose program finds a socket by NOTIFY_SOCKET; makes the directory that it is in."""
    directory = f"{state_directory}/{NOTIFY}"
    os.mkdir(directory, 0o755)
    os.chmod(directory, 0o755)  # noqa: S103 - below a directory of root alone; the container enters its mount
    process = config.process
    if process is not None:
        process = replace(process, env=(*process.env, f"NOTIFY_SOCKET={_DIRECTORY}/{_NAME}"))
    mount = Mount(_DIRECTORY, "bind", directory, _OPTIONS)
    return replace(config, process=process, mounts=(*config.mounts, mount))


class Notifications:
    """Owns the container's socket until :meth:`close`."""

    def __init__(self, state_directory: str, manager: str) -> None:
        """Listen; ``manager`` is the value of NOTIFY_SOCKET. Raises SystemFailureError."""
        self._manager = manager
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        directory = os.open(f"{state_directory}/{NOTIFY}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        path = f"/proc/self/fd/{directory}/{_NAME}"
        try:
            with suppress(FileNotFoundError):
                os.unlink(_NAME, dir_fd=directory)
            self._socket.bind(path)
            os.chmod(path, 0o777)  # noqa: S103 - whoever the program is; nobody else gets to the directory
        except OSError as error:
            self._socket.close()
            raise SystemFailureError(f"unable to make notify socket: {error}") from error
        finally:
            os.close(directory)

    def fileno(self) -> int:
        """Return the descriptor that is readable when the program says something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def relay(self, pid: int) -> bool:
        """Read what there is; hand on that the program is ready, and that ``pid`` is its process. Returns whether so.

        Raises:
            SystemFailureError: the manager cannot be told.
        """
        ready = self._said()
        if not ready:
            return False
        address = f"\0{self._manager[1:]}" if self._manager.startswith("@") else self._manager
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.connect(address)
                manager.send(ready[0] + b"\n")
                manager.send(f"MAINPID={pid}\n".encode())
                _await_barrier(manager)
        except OSError as error:
            raise SystemFailureError(f"unable to notify {self._manager}: {error}") from error
        return True

    def _said(self) -> list[bytes]:
        """Return the lines of readiness in the first message that has one; the program may have ended behind it."""
        for _ in range(_MOST):
            try:
                message = self._socket.recv(_LARGEST)
            except BlockingIOError:
                break
            if ready := [line for line in message.split(b"\n") if line.startswith(b"READY=")]:
                return ready
        return []

    def wait(self, pid: int, pidfd: int) -> None:
        """Hand on that the program is ready; returns then, or when it has ended."""
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(self._socket.fileno(), select.POLLIN)
        while True:
            came = {fd for fd, _ in poller.poll()}
            if self._socket.fileno() in came and self.relay(pid):
                return
            if pidfd in came:
                return


def _await_barrier(manager: socket.socket) -> None:
    """Wait until the manager has read what was sent, which it may match to us only while we live (sd_notify(3))."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        socket.send_fds(manager, [b"BARRIER=1"], [writer])
        os.close(writer)
        writer = -1
        poller = select.poll()
        poller.register(reader, select.POLLHUP)
        poller.poll(_BARRIER_MS)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
