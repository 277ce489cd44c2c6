"""Compare two directory trees through descriptors, as a storage driver without overlay has to.

Both trees hold what strangers made: no link is followed, no device opened.
"""

from __future__ import annotations

import os
import stat

from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ADDED, MODIFIED, DELETED = "added", "modified", "deleted"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
MAX_DEPTH = 800


@dataclass(frozen=True)
class Entry:
    """One difference.

    Attributes:
        path: relative to the trees' roots.
        kind: ADDED, MODIFIED or DELETED.
        name: its last part.
        parent: descriptor of the directory that holds it in the upper tree, valid until the next entry is asked for.
        status: in the upper tree; of a deleted one, in the lower tree.
    """

    path: bytes
    kind: str
    name: bytes
    parent: int
    status: os.stat_result


def differences(upper_fd: int, lower_fd: int | None) -> Iterator[Entry]:
    """Yield what ``upper_fd`` has that ``lower_fd`` has not, has otherwise, or has lost; parents first, by name.

    Args:
        upper_fd: O_RDONLY descriptor of a directory.
        lower_fd: likewise; None for an empty one.

    Raises:
        OSError: a tree cannot be read, or is deeper than is sane.
    """
    levels = [_Level(os.dup(upper_fd), None if lower_fd is None else os.dup(lower_fd), b"")]
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                levels.pop().close()
                continue
            path = level.prefix + name
            above, below = _status(level.upper, name), _status(level.lower, name)
            if above is None:
                if below is not None:
                    yield Entry(path, DELETED, name, level.upper, below)
                continue
            if below is None:
                yield Entry(path, ADDED, name, level.upper, above)
            elif not _same(level, name, above, below):
                yield Entry(path, MODIFIED, name, level.upper, above)
            if stat.S_ISDIR(above.st_mode):
                if len(levels) >= MAX_DEPTH:
                    raise OSError(36, "directories too deep")
                both = below is not None and stat.S_ISDIR(below.st_mode)
                levels.append(level.enter(name, path, both=both))
    finally:
        for level in levels:
            level.close()


class _Level:
    """A directory in both trees; owns its descriptors."""

    def __init__(self, upper: int, lower: int | None, prefix: bytes) -> None:
        self.upper = upper
        self.lower = lower
        self.prefix = prefix
        names = set(os.listdir(upper))
        if lower is not None:
            names.update(os.listdir(lower))
        self.names = iter(sorted(os.fsencode(name) for name in names))

    def enter(self, name: bytes, path: bytes, *, both: bool) -> _Level:
        upper = os.open(name, _DIRECTORY, dir_fd=self.upper)
        try:
            lower = os.open(name, _DIRECTORY, dir_fd=self.lower) if both and self.lower is not None else None
        except BaseException:
            os.close(upper)
            raise
        return _Level(upper, lower, path + b"/")

    def close(self) -> None:
        os.close(self.upper)
        if self.lower is not None:
            os.close(self.lower)


def _status(fd: int | None, name: bytes) -> os.stat_result | None:
    if fd is None:
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same(level: _Level, name: bytes, above: os.stat_result, below: os.stat_result) -> bool:
    """Compare as dockerd does: everything but the content, which no write leaves without a new time."""
    fields = ("st_mode", "st_uid", "st_gid", "st_rdev", "st_mtime_ns")
    if any(getattr(above, field) != getattr(below, field) for field in fields):
        return False
    if stat.S_ISLNK(above.st_mode):
        return os.readlink(name, dir_fd=level.upper) == os.readlink(name, dir_fd=level.lower)
    if not stat.S_ISREG(above.st_mode):
        return True
    if above.st_size != below.st_size:
        return False
    # an attribute changes ctime, which a copy never has in common: only a file with capabilities is looked at
    return capability(level.upper, name) == capability(level.lower, name)


def capability(directory: int | None, name: bytes) -> bytes:
    """Return a file's capabilities as the kernel keeps them; empty for none."""
    if directory is None:
        return b""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.getxattr(fd, "security.capability")
    except OSError:
        return b""
    finally:
        os.close(fd)
