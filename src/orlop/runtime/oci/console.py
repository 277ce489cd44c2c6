"""Terminals of the OCI command line: handing the master end to the caller, or being the terminal's other side."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import selectors
import socket
import struct
import termios
import tty

from orlop.errors import InvalidParameterError, SystemFailureError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 32768
# sun_path of unix(7), with its terminating NUL
_SUN_PATH = 108


def send_console(path: str, master: int, name: str) -> None:
    """Send the master end to whoever listens at ``path``, as runc does: the name as data, the descriptor with it.

    Raises:
        InvalidParameterError: nobody listens there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect(path)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))
            connection.sendmsg([name.encode()], [rights])
        except OSError as error:
            raise InvalidParameterError(f"unable to use console socket {path}: {error.strerror}") from error


def check_console_socket(path: str, *, terminal: bool, detached: bool) -> None:
    """Refuse combinations that cannot work, in runc's words. Raises InvalidParameterError."""
    if len(path.encode()) >= _SUN_PATH:
        raise InvalidParameterError(f"console socket path is longer than {_SUN_PATH - 1} bytes")
    if detached and terminal and not path:
        raise InvalidParameterError("cannot allocate tty if runc will detach without setting console socket")
    if not (detached and terminal) and path:
        raise InvalidParameterError("cannot use console socket if runc will not detach or allocate tty")


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Put a terminal into raw mode while the block runs; nothing happens if ``fd`` is none."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    tty.setraw(fd, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def copy_size(source: int, master: int) -> None:
    """Give the container's terminal the size of ours; nothing happens without one."""
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)


class Relay:
    """Copies standard input to a terminal's master end and its output to standard output.

    ``selector`` is shared with whoever waits for the process' end.
    """

    def __init__(self, selector: selectors.BaseSelector, master: int) -> None:
        self._selector = selector
        self._master = master
        selector.register(master, selectors.EVENT_READ, self.from_container)
        with contextlib.suppress(PermissionError):  # epoll takes no regular files; those are read below
            selector.register(0, selectors.EVENT_READ, self.to_container)
            return
        self.to_container()

    def from_container(self) -> None:
        """Copy what there is; EIO is the last program's end."""
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:
            data = b""
        if data:
            _write_all(1, data)
        else:
            self.close()

    def to_container(self) -> None:
        """Copy what there is; at the end of our input the terminal gets its end-of-file character."""
        data = os.read(0, _CHUNK)
        if data:
            _write_all(self._master, data)
        else:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(0)
            _write_all(self._master, b"\x04")

    def drain(self) -> None:
        """Copy what the terminal still holds after its last program's end."""
        os.set_blocking(self._master, False)
        while True:
            try:
                data = os.read(self._master, _CHUNK)
            except OSError:
                return
            if not data:
                return
            _write_all(1, data)

    def close(self) -> None:
        """Stop copying."""
        for fd in (self._master, 0):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError as error:
            raise SystemFailureError(f"unable to copy terminal data: {error.strerror}") from error
