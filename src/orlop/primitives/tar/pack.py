"""Pack a directory tree as a tar stream, through directory descriptors.

The same tree always gives the same bytes: members in byte order of their names, numeric owners, no access times, pax
records only where ustar's fields do not hold the value. Links are never followed, other file systems never entered,
sockets left out as Docker does. A file that shrinks while it is read is filled with zeros, so that the stream stays
whole (GNU tar does the same).
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import SystemFailureError
from orlop.primitives.tar.entry import Entry, Kind, shown
from orlop.primitives.tar.header import BLOCK
from orlop.primitives.tar.rules import is_kept_xattr
from orlop.primitives.tar.unpack import OPAQUE, OPAQUE_XATTR, WHITEOUT
from orlop.primitives.tar.writer import END, render_entry
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BUFFERED = 1 << 18
_SENT_BY_KERNEL = 1 << 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
_MAX_DEPTH = 800
_REPLACED = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))


@dataclass(frozen=True)
class Packed:
    """What was written: ``size`` bytes of tar, ``entries`` members."""

    size: int
    entries: int


def pack(
    root_fd: int,
    out_fd: int,
    *,
    layer: bool = False,
    omit: frozenset[bytes] = frozenset(),
    latest: int | None = None,
) -> Packed:
    """Write everything below the directory, itself not included, as a tar.

    Args:
        root_fd: O_RDONLY descriptor of the directory.
        out_fd: where to; a pipe, socket or file.
        layer: the directory is an overlay's upper one: write its whiteouts and opaque directories as ``.wh.`` members.
        omit: paths that are left out, with what is below.
        latest: a later time of a member becomes this one, in nanoseconds since the epoch; None for no limit.

    Raises:
        SystemFailureError: the reader of the stream went away, or the file system refused.
    """
    packer = Packer(out_fd, layer=layer, devices=frozenset((os.fstat(root_fd).st_dev,)), omit=omit)
    packer.latest = latest
    packer.enter(os.dup(root_fd), b"")
    return packer.pack()


def pack_member(
    parent_fd: int,
    name: bytes,
    out_fd: int,
    *,
    member: bytes,
    hidden: Callable[[int], bool] | None = None,
    owner: tuple[int, int] | None = None,
) -> Packed:
    """Write one file, or a directory with everything below it, as a tar; what is mounted below is taken along.

    Args:
        parent_fd: descriptor of the directory that holds it.
        name: its name there; ``.`` for the directory itself.
        out_fd: where to.
        member: its name in the archive; empty to call it ``/``.
        hidden: tells whether the directory with this descriptor is left empty.
        owner: user and group of everything; None for what the file system says.

    Raises:
        FileNotFoundError: it is not there; nothing was written.
        SystemFailureError: the reader of the stream went away, or the file system refused.
    """
    packer = Packer(out_fd, layer=False, hidden=hidden, owner=owner)
    packer.add(parent_fd, name, member)
    return packer.pack()


class Packer:
    """Writes members; ``devices`` are the file systems to stay on, None for all but what is ``hidden``.

    Paths in ``omit`` are left out.
    """

    def __init__(
        self,
        out_fd: int,
        *,
        layer: bool,
        devices: frozenset[int] | None = None,
        hidden: Callable[[int], bool] | None = None,
        owner: tuple[int, int] | None = None,
        omit: frozenset[bytes] = frozenset(),
    ) -> None:
        self.size = 0
        self.entries = 0
        self.latest: int | None = None
        self._out_fd = out_fd
        self._layer = layer
        self._devices = devices
        self._hidden = hidden
        self._owner = owner
        self._omit = omit
        self._buffer = bytearray()
        self._links: dict[tuple[int, int], bytes] = {}
        self._path = b""
        # Each level: descriptor, path with its slash, names still to come.
        self._levels: list[tuple[int, bytes, Iterator[bytes]]] = []

    def enter(self, fd: int, prefix: bytes) -> None:
        """Go on with what is in the directory; the descriptor is taken over."""
        self._levels.append((fd, prefix, iter(_names(fd))))

    def pack(self) -> Packed:
        """Write everything there is."""
        self.drain()
        try:
            self._put(END)
            self._flush()
        except OSError as error:
            raise SystemFailureError(f"pack /{shown(self._path)}: {(error.strerror or '').lower()}") from error
        return Packed(self.size, self.entries)

    def drain(self) -> None:
        """Write what was entered so far; more may come before :meth:`pack` ends the archive."""
        try:
            self._run()
        except OSError as error:
            raise SystemFailureError(f"pack /{shown(self._path)}: {(error.strerror or '').lower()}") from error
        finally:
            for fd, _, _ in self._levels:
                os.close(fd)
            self._levels.clear()

    def _run(self) -> None:
        while self._levels:
            fd, prefix, names = self._levels[-1]
            name = next(names, None)
            if name is None:
                self._levels.pop()
                os.close(fd)
                continue
            self._path = prefix + name
            try:
                self.add(fd, name, self._path)
            except OSError as error:
                if error.errno not in _REPLACED:
                    raise
                continue  # removed or replaced meanwhile by the container

    def add(self, fd: int, name: bytes, path: bytes, *, descend: bool = True) -> None:
        """Write what ``name`` is in a directory, as ``path``; with ``descend``, the content of a directory later."""
        if path in self._omit:
            return
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket
        if kind is Kind.CHARACTER and self._layer and status.st_rdev == 0:
            whiteout = path[: len(path) - len(name)] + WHITEOUT + name
            self.put_entry(Entry(whiteout, Kind.FILE, 0o600, 0, 0, status.st_mtime_ns))
            return
        if kind is not Kind.DIRECTORY and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self.put_entry(_entry(path, Kind.HARD_LINK, status, target=first))
                return
        if kind is Kind.DIRECTORY:
            self._add_directory(fd, path, name, status, descend=descend)
        elif kind is Kind.FILE:
            self._add_file(fd, path, name)
        elif kind is Kind.SYMLINK:
            self.put_entry(_entry(path, kind, status, target=_read_link(fd, name)))
        else:
            self.put_entry(_entry(path, kind, status))

    def _add_directory(self, fd: int, path: bytes, name: bytes, status: os.stat_result, *, descend: bool) -> None:
        child = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            self.put_entry(_entry(path + b"/", Kind.DIRECTORY, status, xattrs=_xattrs(child)))
            if not descend or self._is_left_out(child):
                os.close(child)
                return
            if len(self._levels) >= _MAX_DEPTH:
                raise SystemFailureError(f"pack /{shown(path)}: directories too deep")
            if self._layer and _is_opaque(child):
                self.put_entry(Entry(path + b"/" + OPAQUE, Kind.FILE, 0o600, 0, 0, status.st_mtime_ns))
            self.enter(child, path + b"/")
        except BaseException:
            os.close(child)
            raise

    def _is_left_out(self, fd: int) -> bool:
        """Tell whether something is mounted here that does not belong to the tree."""
        if self._devices is not None:
            return os.fstat(fd).st_dev not in self._devices
        return self._hidden is not None and self._hidden(fd)

    def _add_file(self, fd: int, path: bytes, name: bytes) -> None:
        source = os.open(name, _FILE, dir_fd=fd)
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode):
                return  # replaced meanwhile
            self.put_entry(_entry(path, Kind.FILE, status, xattrs=_xattrs(source)))
            self._put_content(source, status.st_size)
        finally:
            os.close(source)

    def put_entry(self, entry: Entry) -> None:
        """Write a member's header."""
        if self._owner is not None:
            entry = replace(entry, uid=self._owner[0], gid=self._owner[1])
        if self.latest is not None and entry.mtime > self.latest:
            entry = replace(entry, mtime=self.latest)
        self.entries += 1
        self._put(render_entry(entry))

    def _put_content(self, source: int, size: int) -> None:
        left = size
        if size >= _SENT_BY_KERNEL:
            self._flush()
            while left:
                sent = os.sendfile(self._out_fd, source, None, left)
                if not sent:
                    break
                self.size += sent
                left -= sent
        while left:
            data = os.read(source, min(left, _BUFFERED))
            if not data:
                break
            self._put(data)
            left -= len(data)
        while left:
            zeros = min(left, _BUFFERED)
            self._put(bytes(zeros))
            left -= zeros
        self._put(bytes(-size % BLOCK))

    def _put(self, data: bytes) -> None:
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(self._buffer)
        while view:
            view = view[os.write(self._out_fd, view) :]
        self._buffer = bytearray()


def _entry(
    path: bytes,
    kind: Kind,
    status: os.stat_result,
    *,
    target: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> Entry:
    device = (0, 0)
    if kind in (Kind.CHARACTER, Kind.BLOCK):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    size = status.st_size if kind is Kind.FILE else 0
    mode = stat.S_IMODE(status.st_mode)
    return Entry(
        path,
        kind,
        mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        size,
        target,
        device,
        xattrs or {},
        None,
        size,
    )


def _read_link(fd: int, name: bytes) -> bytes:
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.EINVAL:  # no link any more
            raise FileNotFoundError(errno.ENOENT, "no such file or directory") from None
        raise


def _names(fd: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(fd))


def _xattrs(fd: int) -> dict[bytes, bytes]:
    """Return the attributes that go into an archive; none where the file system has none."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    found = {}
    for name in sorted(os.fsencode(text) for text in names):
        if is_kept_xattr(name):
            try:
                found[name] = os.getxattr(fd, name)
            except OSError:
                continue  # removed meanwhile
    return found


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
