"""Where a build's files are: patterns and links, each resolved by the kernel beneath the root it belongs to."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, NotFoundError
from orlop.primitives.rootpath import components, open_in_root
from orlop.primitives.tar.entry import shown
from orlop.primitives.wildcards import is_wild, matches
from orlop.spec.record import dataclass

if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_LINKS = 40
_MOST_SOURCES = 100_000


@dataclass(frozen=True)
class Source:
    """One thing to copy.

    Attributes:
        path: below the root, as it was named.
        directory: what is there, links followed.
        base: how many parts of the path stand before the pivot ``/./``.
    """

    path: bytes
    directory: bool
    base: int = 0

    @property
    def relative(self) -> bytes:
        """The path behind the pivot."""
        return b"/".join(self.path.split(b"/")[self.base :])


@dataclass(frozen=True)
class Destination:
    """Where to: ``path`` without links, of which the first ``existing`` parts are there."""

    parts: tuple[bytes, ...]
    existing: int
    directory: bool

    @property
    def exists(self) -> bool:
        """All of it is there."""
        return self.existing == len(self.parts)


def find_sources(root_fd: int, patterns: object) -> list[Source]:
    """Find what patterns name. Raises NotFoundError ``stat x: file does not exist``."""
    if not isinstance(patterns, list):
        raise InvalidParameterError("gather takes patterns")
    found: list[Source] = []
    for pattern in patterns:
        text = str(pattern)
        names = components(text)
        paths = _expand(root_fd, names)
        if not paths:
            raise NotFoundError("no source files were specified")
        before, pivot, _ = text.partition("/./")
        base = len(components(before)) if pivot else 0
        found += [_look(root_fd, path, text, base) for path in paths]
        if len(found) > _MOST_SOURCES:
            raise InvalidParameterError(f"too many source files: {text[:80]}")
    return found


def _look(root_fd: int, path: bytes, pattern: str, base: int) -> Source:
    try:
        with open_in_root(root_fd, path or b".", os.O_PATH) as fd:
            return Source(path, stat.S_ISDIR(os.fstat(fd.fileno()).st_mode), base)
    except OSError as error:
        reason = "file does not exist" if error.errno == errno.ENOENT else (error.strerror or "").lower()
        raise NotFoundError(f"stat {pattern.lstrip('/')[:4096]}: {reason}") from None


def _expand(root_fd: int, names: list[bytes]) -> list[bytes]:
    """Return the paths that a pattern means; a name without wildcards is taken as it is."""
    if not any(is_wild(name) for name in names):
        return [b"/".join(names)]
    paths = [b""]
    for name in names:
        below: list[bytes] = []
        for path in paths:
            prefix = path + b"/" if path else b""
            if not is_wild(name):
                below.append(prefix + name)
                continue
            try:
                with open_in_root(root_fd, path or b".", _READ) as fd:
                    there = [os.fsencode(text) for text in os.listdir(fd.fileno())]
            except OSError:
                continue
            below += [prefix + other for other in sorted(there) if matches(name, other)]
        paths = below[: _MOST_SOURCES + 1]
    return [path for path in paths if _is_there(root_fd, path)]


def _is_there(root_fd: int, path: bytes) -> bool:
    try:
        open_in_root(root_fd, path or b".", os.O_PATH | os.O_NOFOLLOW).close()
    except OSError:
        return False
    return True


def resolve_file(root_fd: int, path: bytes) -> tuple[OwnedFd, bytes]:
    """Return the directory and name of a file, all links followed, also the last one."""
    for _ in range(_MAX_LINKS):
        head, _sep, name = path.rpartition(b"/")
        parent = open_in_root(root_fd, head or b".", os.O_PATH | os.O_DIRECTORY)
        if not stat.S_ISLNK(os.stat(name, dir_fd=parent.fileno(), follow_symlinks=False).st_mode):
            return parent, name
        target = os.readlink(name, dir_fd=parent.fileno())
        parent.close()
        path = _joined(root_fd, head, target)
    raise InvalidParameterError(f"too many links: {shown(path)}")


def _joined(root_fd: int, head: bytes, target: bytes) -> bytes:
    """Return where a link in ``head`` leads, ``..`` counted from where ``head`` really is."""
    base = b"" if target.startswith(b"/") else b"/".join(follow(root_fd, components(head)).parts)
    return b"/".join(_walk(base, target))


def _walk(base: bytes, target: bytes) -> list[bytes]:
    return components(base + b"/" + target)


def follow(top_fd: int, names: list[bytes]) -> Destination:
    """Resolve a destination's links inside the image, as far as it exists.

    Raises:
        InvalidParameterError: a file is in the way, or links lead round in a circle.
    """
    pending, done = list(names), list[bytes]()
    existing, links, kind = 0, 0, stat.S_IFDIR
    while pending:
        name = pending.pop(0)
        if top_fd < 0 or existing < len(done):
            done.append(name)
            continue
        if not stat.S_ISDIR(kind):
            raise InvalidParameterError(f"not a directory: /{shown(b'/'.join(done))}")
        try:
            with open_in_root(top_fd, b"/".join([*done, name]), os.O_PATH | os.O_NOFOLLOW) as fd:
                kind = stat.S_IFMT(os.fstat(fd.fileno()).st_mode)
                target = os.readlink(b"", dir_fd=fd.fileno()) if stat.S_ISLNK(kind) else None
        except FileNotFoundError:
            done.append(name)
            continue
        if target is None:
            done.append(name)
            existing = len(done)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidParameterError(f"too many links: /{shown(b'/'.join([*done, name]))}")
        base = b"" if target.startswith(b"/") else b"/".join(done)
        pending = [*_walk(base, target), *pending]
        done, existing, kind = [], 0, stat.S_IFDIR
    return Destination(tuple(done), existing, existing == len(done) and stat.S_ISDIR(kind))
