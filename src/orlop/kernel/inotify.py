"""inotify(7): being told that a file changed. Used for cgroup v2's event files and for logs that are followed."""

from __future__ import annotations

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import check, prototype

IN_NONBLOCK = 0o4000
IN_CLOEXEC = 0o2000000
IN_MODIFY = 0x00000002
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100

_init1 = prototype("inotify_init1", ctypes.c_int)
_add_watch = prototype("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


def inotify_init1(flags: int = IN_CLOEXEC | IN_NONBLOCK) -> int:
    """Return a new inotify descriptor. Raises SyscallError (EMFILE: fs.inotify.max_user_instances is reached)."""
    return check(_init1(flags), "inotify_init1", hex(flags))


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch ``path`` for the events of ``mask``; return the watch's number. Raises SyscallError."""
    return check(_add_watch(fd, path.encode(), mask), "inotify_add_watch", fd, path, hex(mask))
