"""The container's terminal: a pair in the container's own devpts, opened and bound by descriptor (CVE-2025-52565)."""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidParameterError
from orlop.kernel import mount as k
from orlop.kernel import pty
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import is_char_device
from orlop.runtime.mount_targets import open_ordinary_directory

_PTY_PEER_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt


class Terminal:
    """Owns the master and the peer until they are handed on."""

    def __init__(self, master: OwnedFd, peer: OwnedFd) -> None:
        self.master = master
        self.peer = peer

    def become_standard_streams(self, uid: int) -> None:
        """Make the peer 0, 1, 2 and the controlling terminal, owned by ``uid``; closes the master."""
        self.master.close()
        os.fchown(self.peer.fileno(), uid, -1)
        pty.set_controlling_terminal(self.peer.fileno())
        for number in range(3):
            os.dup2(self.peer.fileno(), number, inheritable=True)
        if self.peer.fileno() > 2:
            self.peer.close()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.master.close()
        self.peer.close()


def open_terminal(root_fd: int, size: tuple[int, int] | None) -> Terminal:
    """Open a new pair in the devpts instance of the root.

    Raises:
        InvalidParameterError: the root has no devpts at /dev/pts.
    """
    with open_ordinary_directory(root_fd, "/dev/pts") as directory:
        try:
            master = OwnedFd(
                os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.fileno())
            )
        except OSError as error:
            raise InvalidParameterError(f"no terminal in the container: {error.strerror}") from None
    try:
        if not is_char_device(master.fileno(), 5, 2):
            raise InvalidParameterError("not a terminal multiplexer: /dev/pts/ptmx")
        pty.unlock(master.fileno())
        peer = OwnedFd(pty.open_peer(master.fileno()))
        status = os.fstat(peer.fileno())
        if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) not in _PTY_PEER_MAJORS:
            peer.close()
            raise InvalidParameterError("not a terminal: peer of /dev/pts/ptmx")
        if size is not None and all(size):
            pty.set_window_size(master.fileno(), *size)
    except BaseException:
        master.close()
        raise
    return Terminal(master, peer)


def mount_console(peer_fd: int, target_fd: int) -> None:
    """Bind the peer onto ``/dev/console``, descriptor to descriptor."""
    with OwnedFd(k.open_tree(peer_fd, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH)) as tree:
        k.move_mount(tree.fileno(), target_fd)
