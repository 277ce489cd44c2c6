"""An interpreter that cannot be written: what enters a container as root is not the file that everybody uses.

CVE-2019-5736: a program in a container opens ``/proc/<pid>/exe`` of the runtime that entered it and, when nobody uses
the file any more, writes to it. Here that file is the Python interpreter. It is executed from a detached, read-only
overlay mount with lower layers only: every write is EROFS, also when it is idle, and nothing is copied. Where overlay
cannot be mounted, from a sealed memfd.
"""

from __future__ import annotations

import os

from orlop.errors import SystemFailureError
from orlop.kernel import mount as k
from orlop.primitives.owned_fd import OwnedFd

_SEALS = 0xF  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE, fcntl(2)
_COPY = 1 << 20
_EROFS = 30


def source_directory() -> str:
    """Return the directory that the ``orlop`` package is in, for ``sys.path`` of an interpreter without site."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def open_sealed_interpreter(path: str) -> OwnedFd:
    """Return a descriptor of the interpreter at ``path`` that can be executed and never written.

    Raises:
        SystemFailureError: neither way works on this machine.
    """
    try:
        return _from_overlay(path)
    except OSError:
        pass  # an old kernel, or no overlay in this user namespace
    try:
        return _from_memfd(path)
    except OSError as error:
        raise SystemFailureError(f"interpreter cannot be sealed: {path}: {error.strerror}") from error


def _from_overlay(path: str) -> OwnedFd:
    """An overlay without an upper layer needs two lower ones: the second is an empty tmpfs that is mounted nowhere."""
    with OwnedFd(k.fsopen("tmpfs")) as context:
        k.fsconfig_create(context.fileno())
        empty = OwnedFd(k.fsmount(context.fileno(), k.MOUNT_ATTR_RDONLY))
    with empty, OwnedFd(k.fsopen("overlay")) as context:
        k.fsconfig_set_string(context.fileno(), "lowerdir+", os.path.dirname(path))
        k.fsconfig_set_string(context.fileno(), "lowerdir+", f"/proc/self/fd/{empty.fileno()}")
        k.fsconfig_create(context.fileno())
        with OwnedFd(k.fsmount(context.fileno(), k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NODEV)) as tree:
            return OwnedFd(os.open(os.path.basename(path), os.O_RDONLY | os.O_CLOEXEC, dir_fd=tree.fileno()))


def _from_memfd(path: str) -> OwnedFd:
    import fcntl

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
        if error.errno == _EROFS:  # the overlay
            return True
    else:
        os.close(fd)
        return False
    import fcntl

    # ETXTBSY: busy now; a memfd is told by its seals
    with OwnedFd(os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)) as executable:
        try:
            return fcntl.fcntl(executable.fileno(), fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:
            return False
