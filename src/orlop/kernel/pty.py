"""Pseudo-terminals (pty(7), ioctl_tty(2))."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def unlock(master_fd: int) -> None:
    """Unlock the peer of a master (unlockpt(3))."""
    fcntl.ioctl(master_fd, TIOCSPTLCK, struct.pack("i", 0))


def open_peer(master_fd: int) -> int:
    """Open the peer without a path (TIOCGPTPEER), so that nothing in ``/dev/pts`` can be put in its place."""
    return fcntl.ioctl(master_fd, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def set_window_size(fd: int, height: int, width: int) -> None:
    """Set rows and columns; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def set_controlling_terminal(fd: int) -> None:
    """Make it the controlling terminal of the calling session leader (TIOCSCTTY)."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
