"""Files that are whole or not there: written beside their place and renamed into it."""

from __future__ import annotations

import os

from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.scope import suppress


def write_atomic(path: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Replace the file at ``path`` by ``data``; readers see the old content or the new, never a part.

    Args:
        path: in a directory that only the engine writes to.
        data: the whole content.
        mode: exact permission bits; the umask does not count.
        durable: return only when content and name have reached the disk (fsync of file and directory).

    Raises:
        OSError: nothing was changed then; the temporary file is gone.
    """
    directory, name = os.path.split(path)
    with OwnedFd(os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as parent:
        write_atomic_at(parent.fileno(), name, data, mode, durable=durable)


def write_atomic_at(dir_fd: int, name: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Like :func:`write_atomic`, in an open directory (not O_PATH when ``durable``)."""
    if not name or "/" in name:
        raise ValueError(f"not a file name: {name!r}")
    temporary = f".{name[:200]}.{os.urandom(6).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = OwnedFd(os.open(temporary, flags, 0o600, dir_fd=dir_fd))
    try:
        with file:
            _write_all(file.fileno(), data)
            os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise
    if durable:
        os.fsync(dir_fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
