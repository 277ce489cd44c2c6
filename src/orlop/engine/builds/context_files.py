"""Contexts that travel once: a client tells what its files are, and sends those whose content is not here yet.

::

    <data-root>/build-files/              0700   cleared when the machine has started anew: contents are not synced
      boot                                       the kernel's boot id
      <sha256>                            0600   one file's content; its mtime is when it was last of use
      .new-<random>                              being received

Nothing is taken for granted about a content's name: it is stored under the digest of what came. A manifest is hostile
(threats.md F6): its paths are names below a fresh private directory, each made in the descriptor of its parent, which
the manifest must have named as a directory before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Literal

import msgspec

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.tar.rules import is_kept_xattr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MANIFEST_LIMIT = 64 << 20
_MOST_ENTRIES = 1_000_000
_HEAD = 40  # of a frame: the digest and the length
_DIGEST = 64
_PIECE = 1 << 20
_NEW = ".new-"
_BOOT = "boot"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One file of a context.

    Attributes:
        path: relative; each byte of it as the character of that number (Latin-1), since names need not be UTF-8.
        kind: directory, file, link, or named pipe.
        mode: permission bits.
        mtime: nanoseconds since the epoch.
        size: of a file.
        text: a file's sha256 in hex; a link's target, written as the path is.
        xattrs: extended attributes; the values in hex.
    """

    path: str
    kind: Literal["d", "f", "l", "p"]
    mode: int
    mtime: int
    size: int = 0
    text: str = ""
    xattrs: dict[str, str] = {}


def parse_manifest(data: bytes) -> list[Entry]:
    """Read a manifest, a JSON list of entries, and check everything about it that can be wrong.

    Raises:
        InvalidParameterError: malformed, or a path that is none.
    """
    try:
        entries = msgspec.json.decode(data, type=list[Entry])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidParameterError(f"invalid manifest of a context: {error}") from None
    if len(entries) > _MOST_ENTRIES:
        raise InvalidParameterError(f"invalid manifest of a context: more than {_MOST_ENTRIES} files")
    for entry in entries:
        _check(entry)
    return entries


def _check(entry: Entry) -> None:
    names = entry.path.split("/")
    if (
        (not entry.path.isascii() and max(entry.path) > "\xff")
        or any(name in ("", ".", "..") or len(name) > 255 for name in names)
        or "\0" in entry.path
    ):
        raise InvalidParameterError(f"invalid path in a context: {entry.path[:200]!r}")
    numbers = 0 <= entry.mode <= 0o7777 and abs(entry.mtime) < 1 << 62 and 0 <= entry.size < 1 << 62
    text = entry.kind != "f" or (len(entry.text) == _DIGEST and set(entry.text) <= set("0123456789abcdef"))
    link = entry.kind != "l" or (0 < len(entry.text) < 4096 and "\0" not in entry.text and max(entry.text) <= "\xff")
    if not (numbers and text and link):
        raise InvalidParameterError(f"invalid file in a context: {entry.path[:200]!r}")


class ContextFiles:
    """Owns the directory drawn above. All methods but the constructor block: call them in a thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        os.makedirs(root, mode=0o700, exist_ok=True)
        with open(_BOOT_ID, encoding="ascii") as file:
            boot = file.read()
        try:
            with open(f"{root}/{_BOOT}", encoding="ascii") as file:
                known = file.read()
        except FileNotFoundError:
            known = ""
        for name in os.listdir(root):
            if name.startswith(_NEW) or known != boot:
                os.unlink(f"{root}/{name}")
        if known != boot:
            with open(f"{root}/{_BOOT}", "w", encoding="ascii") as file:
                file.write(boot)

    def missing(self, entries: Iterable[Entry]) -> list[str]:
        """Return the digests of contents that are not here, each once; the others are of use now."""
        wanted = {entry.text: entry.size for entry in entries if entry.kind == "f"}
        return [digest for digest, size in wanted.items() if not self._touch(digest, size)]

    def _touch(self, digest: str, size: int) -> bool:
        path = f"{self._root}/{digest}"
        try:
            if os.stat(path).st_size == size:
                os.utime(path)
                return True
        except FileNotFoundError:
            return False
        return False

    def receive(self) -> Receiver:
        """Begin to receive contents."""
        return Receiver(self._root)

    def lay_out(self, entries: Sequence[Entry], target: str) -> None:
        """Make the tree of a manifest in an empty private directory.

        Raises:
            InvalidParameterError: a file in what is no directory, or twice.
            SystemFailureError: a content is not here, no space left on device, and the like.
        """
        try:
            with OwnedFd(os.open(target, _DIRECTORY)) as root:
                _Tree(self._root, root.fileno()).make(entries)
        except OSError as error:
            raise SystemFailureError(f"lay out context: {(error.strerror or '').lower()}") from error

    def usage(self) -> tuple[int, int, float, float]:
        """Return how many contents there are, their bytes, and the times of the oldest and newest use."""
        found = [status for _, status in self._contents()]
        times = [status.st_mtime for status in found]
        return len(found), sum(status.st_size for status in found), min(times, default=0.0), max(times, default=0.0)

    def trim(self, limit: int, *, before: float | None = None) -> int:
        """Remove what was not of use for longest until at most ``limit`` bytes are left; returns the bytes removed.

        Args:
            limit: bytes that may stay; with 0 empty contents go, too.
            before: only what was last of use before this time (seconds since the epoch).
        """
        found = sorted(self._contents(), key=lambda item: item[1].st_mtime)
        left = sum(status.st_size for _, status in found)
        removed = 0
        for name, status in found:
            if (limit and left <= limit) or (before is not None and status.st_mtime >= before):
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._root}/{name}")
                removed += status.st_size
            left -= status.st_size
        return removed

    def _contents(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in os.listdir(self._root):
            if len(name) == _DIGEST:
                with contextlib.suppress(FileNotFoundError):
                    yield name, os.stat(f"{self._root}/{name}")


class Receiver:
    """Takes contents as they come: 32 bytes of sha256, 8 of the length (big endian), the bytes; and so on."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._buffer = bytearray()
        self._digest = ""
        self._left = 0
        self._hash = hashlib.sha256()
        self._file: OwnedFd | None = None
        self._name = ""

    def feed(self, data: bytes) -> None:
        """Take bytes.

        Raises:
            InvalidParameterError: what came is not what its digest says.
            SystemFailureError: no space left on device and the like.
        """
        try:
            self._feed(data)
        except OSError as error:
            raise SystemFailureError(f"receive context: {(error.strerror or '').lower()}") from error

    def _feed(self, data: bytes) -> None:
        self._buffer += data
        while True:
            if self._file is None:
                if len(self._buffer) < _HEAD:
                    return
                self._begin(bytes(self._buffer[:_HEAD]))
                del self._buffer[:_HEAD]
            if self._left:
                piece = bytes(self._buffer[: self._left])
                if not piece:
                    return
                del self._buffer[: len(piece)]
                self._left -= len(piece)
                self._hash.update(piece)
                self._write(piece)
            if not self._left:
                self._end()

    def _begin(self, head: bytes) -> None:
        self._digest, self._left = head[:32].hex(), int.from_bytes(head[32:], "big")
        self._hash = hashlib.sha256()
        self._name = f"{self._root}/{_NEW}{secrets.token_hex(8)}"
        self._file = OwnedFd(os.open(self._name, _CREATE, 0o600))

    def _write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view and self._file is not None:
            view = view[os.write(self._file.fileno(), view) :]

    def _end(self) -> None:
        if self._hash.hexdigest() != self._digest:
            raise InvalidParameterError(f"a file of the context changed while it was sent: sha256:{self._digest}")
        if self._file is not None:
            self._file.close()
        self._file = None
        os.rename(self._name, f"{self._root}/{self._digest}")

    def finish(self) -> None:
        """Say that nothing more comes. Raises InvalidParameterError: something is missing."""
        if self._file is not None or self._buffer:
            raise InvalidParameterError("unexpected end of the context's files")

    def close(self) -> None:
        """Remove what is not whole."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name)


class _Tree:
    """A context being laid out; keeps the descriptors of the directories above the file at hand."""

    def __init__(self, contents: str, root_fd: int) -> None:
        self._contents = contents
        self._path: list[tuple[bytes, OwnedFd]] = []
        self._root_fd = root_fd

    def make(self, entries: Sequence[Entry]) -> None:
        directories: list[Entry] = []
        try:
            for entry in sorted(entries, key=lambda entry: entry.path.split("/")):
                *above, name = entry.path.encode("latin-1").split(b"/")
                parent = self._enter(above)
                try:
                    self._make_one(entry, parent, name)
                except FileExistsError:
                    raise InvalidParameterError(f"twice in the context: {entry.path[:200]!r}") from None
                if entry.kind == "d":
                    directories.append(entry)
            # Last, since what is made in a directory changes its time; the deepest first, since modes may shut it.
            for entry in reversed(directories):
                *above, name = entry.path.encode("latin-1").split(b"/")
                with OwnedFd(os.open(name, _DIRECTORY, dir_fd=self._enter(above))) as fd:
                    _finish(fd.fileno(), entry)
        finally:
            self._leave(0)

    def _enter(self, names: Sequence[bytes]) -> int:
        shared = 0
        for (there, _), wanted in zip(self._path, names, strict=False):
            if there != wanted:
                break
            shared += 1
        self._leave(shared)
        for name in names[shared:]:
            above = self._path[-1][1].fileno() if self._path else self._root_fd
            try:
                self._path.append((name, OwnedFd(os.open(name, _DIRECTORY, dir_fd=above))))
            except (FileNotFoundError, NotADirectoryError):
                raise InvalidParameterError(f"no directory in the context: {b'/'.join(names)[:200]!r}") from None
        return self._path[-1][1].fileno() if self._path else self._root_fd

    def _leave(self, depth: int) -> None:
        while len(self._path) > depth:
            self._path.pop()[1].close()

    def _make_one(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.kind == "d":
            os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.kind == "l":
            os.symlink(entry.text.encode("latin-1"), name, dir_fd=parent)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        elif entry.kind == "p":
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chmod(name, entry.mode, dir_fd=parent)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent)
        else:
            with OwnedFd(os.open(name, _CREATE, 0o600, dir_fd=parent)) as out:
                self._copy(entry, out.fileno())
                _finish(out.fileno(), entry)

    def _copy(self, entry: Entry, out_fd: int) -> None:
        try:
            source = OwnedFd(os.open(f"{self._contents}/{entry.text}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileNotFoundError:
            raise SystemFailureError(f"the context's content is not here: {entry.path[:200]!r}") from None
        with source:
            if os.fstat(source.fileno()).st_size != entry.size:
                raise SystemFailureError(f"the context's content has another size: {entry.path[:200]!r}")
            left = entry.size
            while left:
                try:
                    done = os.copy_file_range(source.fileno(), out_fd, min(left, 1 << 30))
                except OSError:
                    done = _copy_piece(source.fileno(), out_fd)  # another file system
                if not done:
                    break
                left -= done


def _copy_piece(source: int, target: int) -> int:
    data = os.read(source, _PIECE)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)


def _finish(fd: int, entry: Entry) -> None:
    """Give a file what it has beside its content."""
    _set_xattrs(fd, entry.xattrs)
    os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime, entry.mtime))


def _set_xattrs(fd: int, xattrs: Mapping[str, str]) -> None:
    for name, value in xattrs.items():
        if not is_kept_xattr(name.encode("utf-8", "surrogateescape")):
            raise InvalidParameterError(f"invalid extended attribute in a context: {name[:80]!r}")
        try:
            data = bytes.fromhex(value)
        except ValueError:
            raise InvalidParameterError(f"invalid extended attribute in a context: {name[:80]!r}") from None
        os.setxattr(fd, name, data)
