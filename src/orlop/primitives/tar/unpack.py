"""Unpack a tar stream into a directory that no container can see yet.

What it promises (threats.md D5 to D9, E1, E7, B18):

- nothing outside the root is touched, whatever the names, links and order of members are;
- owner, mode and attributes are set on the descriptor of the file that was just made, never by a path;
- only ``user.*`` (but not overlay's) and ``security.capability`` attributes are taken from the archive;
- members are limited in number, size, name and depth; memory stays bounded.

Runs in a forked child of the spawner, where imports are blocked: everything that it needs is loaded with this module.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.primitives.removal import remove_entry
from orlop.primitives.tar.directories import Directories
from orlop.primitives.tar.entry import Entry, Kind, Limits, TarError, shown
from orlop.primitives.tar.reader import Event, Signal, TarReader
from orlop.primitives.tar.recipe import RecipeWriter
from orlop.primitives.tar.rules import Rules, is_kept_xattr, named
from orlop.primitives.tar.whiteouts import Whiteouts
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK = 1 << 18
_PENDING_TIMES = 100_000  # directories whose times are remembered: memory stays bounded whatever their number
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_WHITEOUT_META = b".wh..wh."
OPAQUE_XATTR = "trusted.overlay.opaque"
_SPECIAL = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


@dataclass(frozen=True)
class Unpacked:
    """What came out.

    Attributes:
        size: bytes of files and symbolic links (hard links once), as Docker counts.
        entries: members of the archive.
        recipe: whether a recipe was asked for and can be used.
    """

    size: int
    entries: int
    recipe: bool = False


def unpack(
    root_fd: int,
    stream_fd: int,
    limits: Limits | None = None,
    *,
    rules: Rules | None = None,
    recipe_fd: int | None = None,
) -> Unpacked:
    """Unpack the stream, up to its end of file, into the directory.

    Args:
        root_fd: O_RDONLY descriptor of the directory; existing members are replaced as Docker does.
        stream_fd: an uncompressed tar.
        limits: see :class:`Limits`.
        rules: see :class:`~orlop.primitives.tar.rules.Rules`; a layer's by default.
        recipe_fd: a file for the recipe of the tar (:mod:`orlop.primitives.tar.recipe`).

    Raises:
        TarError: the archive is damaged, cut short or hostile; the message names the member.
        SystemFailureError: the file system refused, for instance ``no space left on device``.
    """
    return unpack_chunks(root_fd, _chunks(stream_fd), limits, rules=rules, recipe_fd=recipe_fd)


def unpack_chunks(
    root_fd: int,
    chunks: Iterable[bytes],
    limits: Limits | None = None,
    *,
    rules: Rules | None = None,
    recipe_fd: int | None = None,
) -> Unpacked:
    """Unpack pieces of a tar as :func:`unpack` does. Raises what the iteration raises, too."""
    mask = os.umask(0)
    recipe = None if recipe_fd is None else RecipeWriter(recipe_fd)
    unpacker = _Unpacker(root_fd, limits or Limits(), rules or Rules(), recipe)
    try:
        for data in chunks:
            unpacker.feed(data)
        return unpacker.finish()
    finally:
        unpacker.close()
        os.umask(mask)


def _chunks(stream_fd: int) -> Iterator[bytes]:
    while data := os.read(stream_fd, _CHUNK):
        yield data


class _Unpacker:
    def __init__(self, root_fd: int, limits: Limits, rules: Rules, recipe: RecipeWriter | None) -> None:
        self._root_fd = root_fd
        self._recipe = recipe
        self._path = b""
        self._limits = limits
        self._rules = rules
        self._layer = rules.layer
        self._reader = TarReader(limits)
        self._directories = Directories(root_fd, cross=rules.cross, owner=rules.owner or (0, 0) if rules.own else None)
        self._whiteouts = Whiteouts(self._directories) if rules.apply else None
        self._directory_times: dict[bytes, int] = {}
        self._size = 0
        self._entries = 0
        self._last: Entry | None = None  # for messages
        self._entry: Entry | None = None
        self._fd = -1  # the file whose payload is coming
        self._missing = 0  # bytes of it
        self._regions: Iterator[tuple[int, int]] | None = None
        self._region_left = 0

    def feed(self, data: bytes) -> None:
        if self._recipe is not None:
            self._recipe.begin_chunk(data)
        self._reader.feed(data)
        self._run()
        if self._recipe is not None:
            self._recipe.end_chunk()

    def finish(self) -> Unpacked:
        self._reader.finish()
        self._run()
        with named(Entry(b"/", Kind.DIRECTORY), "utimensat"):
            self._set_directory_times()
        return Unpacked(self._size, self._entries, self._recipe is not None and self._recipe.finish())

    def close(self) -> None:
        self._directories.forget()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        while True:
            event = self._next()
            if isinstance(event, Signal):
                return
            if isinstance(event, Entry):
                self._entries += 1
                with named(event):
                    self._begin(event)
            elif self._entry is not None:
                with named(self._entry, "write"):
                    self._write(self._entry, event)

    def _next(self) -> Event:
        try:
            return self._reader.next_event()
        except TarError as error:
            name = "" if self._last is None else shown(self._last.name)
            if not name or name in str(error):
                raise
            raise TarError(f"{error}: {'in' if self._missing else 'after'} {name}") from None

    def _begin(self, entry: Entry) -> None:
        self._last = entry
        if entry.size:
            self._size += entry.size
            if self._limits.size and self._size > self._limits.size:
                raise TarError(f"archive is larger than {self._limits.size} bytes: {shown(entry.name)}")
        self._entry, self._missing, self._fd = entry, entry.size, -1
        path = self._rules.path(entry.name, self._limits)
        if not self._layer and path == self._rules.place and entry.kind is Kind.DIRECTORY:
            return  # as Docker: "." names the place, it does not describe it
        if not path:
            if entry.kind is not Kind.DIRECTORY:
                raise TarError(f"invalid path in archive: {shown(entry.name)}: the root is a directory")
            self._set_attributes(self._root_fd, entry)
            self._directory_times[b""] = entry.mtime
            return
        self._path = path
        head, _, name = path.rpartition(b"/")
        if self._layer and name.startswith(WHITEOUT):
            self._white_out(entry, head, name)
            return
        parent = self._directories.open(head)
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(entry, parent, name, path)
        elif entry.kind is Kind.HARD_LINK:
            self._make_hard_link(entry, head, name)
        else:
            self._make(entry, parent, head, name)
        if self._whiteouts is not None:
            self._whiteouts.bring(path)

    def _make(self, entry: Entry, parent: int, head: bytes, name: bytes) -> None:
        try:
            self._make_new(entry, parent, name)
        except FileExistsError:
            self._replace(parent, name)
            self._make_new(entry, self._directories.open(head), name)

    def _replace(self, parent: int, name: bytes) -> None:
        """Remove what is at ``name``. Kept descriptors are only dropped if a path could have led through it."""
        if self._recipe is not None and (self._whiteouts is None or self._whiteouts.has_brought(self._path)):
            self._recipe.spoil()
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if self._rules.keep_kinds:
            self._check_kinds(directory=stat.S_ISDIR(mode))
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            kept = os.dup(parent)
            try:
                self._directories.forget()
                remove_entry(kept, name)
            finally:
                os.close(kept)
        else:
            remove_entry(parent, name)

    def _check_kinds(self, *, directory: bool) -> None:
        """Refuse to put a directory in another thing's place or the other way round, in Docker's words."""
        entry = self._entry
        if entry is None or directory == (entry.kind is Kind.DIRECTORY):
            return
        path, place = shown(self._rules.path(entry.name, self._limits)), shown(self._rules.place)
        kinds = ("directory", "non-directory") if directory else ("non-directory", "directory")
        raise TarError(f'cannot overwrite {kinds[0]} "/{path}" with {kinds[1]} "/{place}"')

    def _make_new(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.kind is Kind.FILE:
            self._fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            if entry.sparse is not None:
                self._regions, self._region_left = iter(entry.sparse), 0
            if not entry.size:
                self._end_file(entry)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
            self._size += len(entry.target)
            self._set_owner(entry, parent, name)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        else:
            self._make_special(entry, parent, name)

    def _make_special(self, entry: Entry, parent: int, name: bytes) -> None:
        major, minor = entry.device
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise TarError(f"invalid device number in archive: {shown(entry.name)}")
        device = 0 if entry.kind is Kind.FIFO else os.makedev(major, minor)
        os.mknod(name, _SPECIAL[entry.kind] | (entry.mode & 0o777), device, dir_fd=parent)
        self._set_owner(entry, parent, name)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _set_owner(self, entry: Entry, parent: int, name: bytes) -> None:
        if self._rules.own:
            uid, gid = self._rules.owner or (entry.uid, entry.gid)
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)

    def _make_directory(self, entry: Entry, parent: int, name: bytes, path: bytes) -> None:
        hides_lower = False  # the layer whites the name out as well: its old content must not shine through
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                hides_lower = self._layer and stat.S_ISCHR(there.st_mode) and there.st_rdev == 0
                self._replace(parent, name)
                parent = self._directories.open(path.rpartition(b"/")[0])
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._set_attributes(fd, entry)
            if hides_lower:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
        except BaseException:
            os.close(fd)
            raise
        self._directories.keep(path, fd)
        if len(self._directory_times) >= _PENDING_TIMES:
            self._set_directory_times()
        self._directory_times[path] = entry.mtime

    def _make_hard_link(self, entry: Entry, head: bytes, name: bytes) -> None:
        target = self._rules.path(entry.target, self._limits)
        target_head, _, target_name = target.rpartition(b"/")
        if not target:
            raise TarError(f"invalid hard link in archive: {shown(entry.name)}: {shown(entry.target)}")
        source = self._directories.open(target_head)
        parent = self._directories.open(head)
        try:
            same = os.path.samestat(
                os.stat(target_name, dir_fd=source, follow_symlinks=False),
                os.stat(name, dir_fd=parent, follow_symlinks=False),
            )
        except FileNotFoundError:
            same = False
        if same:
            return
        try:
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            self._replace(parent, name)
            source = self._directories.open(target_head)
            parent = self._directories.open(head)
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, PermissionError):  # a directory gives EPERM
            raise TarError(f"invalid hard link in archive: {shown(entry.name)}: {shown(entry.target)}") from None

    def _white_out(self, entry: Entry, head: bytes, name: bytes) -> None:
        """Turn AUFS' whiteout names, which OCI image-spec layer.md keeps, into overlay's, or do what they say."""
        self._entry = None  # payload, if any, is dropped
        if name == OPAQUE:
            if self._whiteouts is not None:
                self._whiteouts.empty(head)
                return
            parent = self._directories.open(head)
            self._make_opaque(os.open(b".", _DIRECTORY, dir_fd=parent))
            return
        if name.startswith(_WHITEOUT_META):
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise TarError(f"invalid whiteout in archive: {shown(entry.name)}")
        if self._whiteouts is not None:
            self._whiteouts.hide(head + b"/" + hidden if head else hidden)
            return
        parent = self._directories.open(head)
        try:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            # A whiteout hides what is below, never what the same layer brings (OCI image-spec, layer.md).
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._make_opaque(os.open(hidden, _DIRECTORY, dir_fd=parent))

    @staticmethod
    def _make_opaque(fd: int) -> None:
        try:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def _write(self, entry: Entry, piece: memoryview) -> None:
        if self._recipe is not None and self._regions is None:
            self._recipe.skip_payload(self._path, entry.size - self._missing, self._reader.position, len(piece))
        self._missing -= len(piece)
        while piece:
            if self._regions is not None:
                while not self._region_left:
                    offset, self._region_left = next(self._regions)
                    os.lseek(self._fd, offset, os.SEEK_SET)
                written = os.write(self._fd, piece[: self._region_left])
                self._region_left -= written
            else:
                written = os.write(self._fd, piece)
            piece = piece[written:]
        if not self._missing:
            self._end_file(entry)

    def _end_file(self, entry: Entry) -> None:
        if entry.sparse is not None:
            os.ftruncate(self._fd, entry.real_size)
        self._set_attributes(self._fd, entry)
        os.utime(self._fd, ns=(entry.mtime, entry.mtime))
        fd, self._fd = self._fd, -1
        self._entry = self._regions = None
        os.close(fd)

    def _set_attributes(self, fd: int, entry: Entry) -> None:
        """Owner, then mode (chown clears setuid), then attributes (chown clears file capabilities)."""
        if self._rules.own:
            os.fchown(fd, *(self._rules.owner or (entry.uid, entry.gid)))
        os.fchmod(fd, entry.mode)
        for name, value in entry.xattrs.items():
            if is_kept_xattr(name):
                try:
                    os.setxattr(fd, name, value)
                except OSError as error:
                    # Docker ignores file systems without user attributes, and user attributes where none may be.
                    if error.errno != errno.ENOTSUP and not (error.errno == errno.EPERM and name.startswith(b"user.")):
                        raise

    def _set_directory_times(self) -> None:
        """Set what members made since would have changed; deepest first."""
        times, self._directory_times = self._directory_times, {}
        for path, mtime in reversed(times.items()):
            head, _, name = path.rpartition(b"/")
            try:
                if path:
                    parent = self._directories.open(head)
                    os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
                else:
                    os.utime(self._root_fd, ns=(mtime, mtime))
            except (FileNotFoundError, TarError):
                continue  # replaced by a later member
