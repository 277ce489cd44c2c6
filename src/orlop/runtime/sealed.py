"""The sealed interpreter: what runs as root beside containers cannot be written through /proc/self/exe.

CVE-2019-5736: a program in a container opens ``/proc/<pid>/exe`` of the runtime that entered it and, when nobody uses
the file any more, writes to it. Here that file is the Python interpreter. The spawner is executed from a detached,
read-only overlay mount with lower layers only: every write is EROFS, also when it is idle, and nothing is copied. Where
overlay cannot be mounted, from a sealed memfd.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import tempfile
from dataclasses import dataclass

from orlop.errors import SystemFailureError
from orlop.kernel import mount as k
from orlop.kernel.process import pidfd_open
from orlop.primitives.owned_fd import OwnedFd

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_COPY = 1 << 20
CHANNEL_FD = 3
_START = "import sys; sys.path.insert(0, {source!r}); from orlop.runtime.spawner import main; main({fd})"


@dataclass(slots=True)
class SpawnerProcess:
    """A started spawner: its pid, a pidfd, and the engine's end of its socket. Owned by the caller."""

    pid: int
    pidfd: OwnedFd
    socket: socket.socket


def open_sealed_interpreter() -> OwnedFd:
    """Return a descriptor of this interpreter that can be executed and never written.

    Raises:
        SystemFailureError: neither way works on this machine.
    """
    path = os.path.realpath(sys.executable)
    try:
        return _from_overlay(path)
    except OSError:
        pass  # an old kernel, or no overlay in this user namespace
    try:
        return _from_memfd(path)
    except OSError as error:
        raise SystemFailureError(f"interpreter cannot be sealed: {path}: {error.strerror}") from error


def _from_overlay(path: str) -> OwnedFd:
    with tempfile.TemporaryDirectory(prefix="orlop-empty-") as empty, OwnedFd(k.fsopen("overlay")) as context:
        k.fsconfig_set_string(context.fileno(), "lowerdir+", os.path.dirname(path))
        k.fsconfig_set_string(context.fileno(), "lowerdir+", empty)
        k.fsconfig_create(context.fileno())
        with OwnedFd(k.fsmount(context.fileno(), k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NODEV)) as tree:
            return OwnedFd(os.open(os.path.basename(path), os.O_RDONLY | os.O_CLOEXEC, dir_fd=tree.fileno()))


def _from_memfd(path: str) -> OwnedFd:
    sealed = OwnedFd(os.memfd_create("orlop-interpreter", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        with OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as source:
            while os.sendfile(sealed.fileno(), source.fileno(), None, _COPY):
                pass
        os.fchmod(sealed.fileno(), 0o755)
        fcntl.fcntl(sealed.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        sealed.close()
        raise
    return sealed


def is_sealed() -> bool:
    """Whether this process runs from a file that cannot be opened for writing, not even by root."""
    try:
        fd = os.open("/proc/self/exe", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == 30:  # EROFS: the overlay
            return True
    else:
        os.close(fd)
        return False
    # ETXTBSY: busy now; a memfd is told by its seals
    with OwnedFd(os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)) as fd_:
        try:
            return fcntl.fcntl(fd_.fileno(), fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:
            return False


def start_spawner() -> SpawnerProcess:
    """Start a spawner from the sealed interpreter: isolated, without site-packages and with an empty environment.

    posix_spawn(3) only: the caller may have an event loop and threads.

    Raises:
        SystemFailureError: the interpreter cannot be sealed.
        OSError: no process could be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        with theirs, open_sealed_interpreter() as interpreter, OwnedFd(os.open(os.devnull, os.O_RDONLY)) as null:
            command = _START.format(source=source, fd=CHANNEL_FD)
            arguments = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", command]
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
