"""How BuildKit's clients and servers send directories to each other, sans-I/O; both sides of it.

::

    sender                              receiver
    STAT(number 0) STAT(1) ... ──────▶            what there is, a directory before what is in it, sorted by names
    STAT(nothing)              ──────▶            that is all
                               ◀────── REQ(1)     regular files that it wants; may come before all is told
    DATA(1) DATA(3) DATA(1)    ──────▶            pieces, mixed; an empty one ends a file
                               ◀────── FIN        it has everything
    FIN                        ──────▶
    ERR(text)                  ◀─────▶            at any time: it failed

A file's number is its place in the list. Kinds and modes are those of Go's ``os.FileMode``. A client is hostile: what
it lists is checked to be a tree as it comes (threats.md F6), its size and number of files are limited as a manifest's
(``engine/builds/context_files.py``), and of contents nothing comes in that was not asked for.

Source: github.com/tonistiigi/fsutil (``types/*.proto``, send.go, receive.go, validator.go, hardlinks.go).
"""

from __future__ import annotations

import enum
import stat
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from orlop.engine.builds.context_files import MANIFEST_LIMIT, MOST_ENTRIES, check_entry
from orlop.engine.builds.context_tree import Entry
from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.primitives.protobuf.message import Message, blob, blobs_by_name, integer, nested
from orlop.primitives.tar.rules import is_kept_xattr

if TYPE_CHECKING:
    from typing import Literal

DIRECTORY, _SYMLINK, _DEVICE, _FIFO, _SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_SETUID, _SETGID, _CHARACTER, _STICKY, _IRREGULAR = 1 << 23, 1 << 22, 1 << 21, 1 << 20, 1 << 19
_KINDS = DIRECTORY | _SYMLINK | _DEVICE | _FIFO | _SOCKET | _CHARACTER | _IRREGULAR
_SPECIAL = {_SETUID: stat.S_ISUID, _SETGID: stat.S_ISGID, _STICKY: stat.S_ISVTX}
_GO_KINDS = {
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: _SYMLINK,
    stat.S_IFIFO: _FIFO,
    stat.S_IFBLK: _DEVICE,
    stat.S_IFCHR: _DEVICE | _CHARACTER,
}
_OUR_KINDS: dict[int, Literal["d", "f", "l", "p"]] = {0: "f", DIRECTORY: "d", _SYMLINK: "l", _FIFO: "p"}
_NO_DIGEST = "0" * 64
_NONE: dict[str, str] = {}  # xattrs of nearly every file; nobody changes them
_LONGEST = 4096  # of a path
_SHOWN = 200


class Kind(enum.IntEnum):
    """What a packet is."""

    STAT = 0
    REQ = 1
    DATA = 2
    FIN = 3
    ERR = 4


class Stat(Message):
    """One file; texts are bytes, since names need not be UTF-8. The link of a regular file is one listed before."""

    path: bytes = blob(1)
    mode: int = integer(2)
    uid: int = integer(3)
    gid: int = integer(4)
    size: int = integer(5)
    mtime: int = integer(6)
    link: bytes = blob(7)
    major: int = integer(8)
    minor: int = integer(9)
    xattrs: dict[str, bytes] = blobs_by_name(10)


class Packet(Message):
    """One message of either side."""

    kind: int = integer(1)
    stat: Stat | None = nested(2, Stat)
    number: int = integer(3)
    data: bytes = blob(4)


def go_mode(mode: int) -> int:
    """Return Go's mode for one of stat(2)."""
    special = sum(go for go, ours in _SPECIAL.items() if mode & ours)
    return mode & 0o777 | special | _GO_KINDS.get(stat.S_IFMT(mode), 0)


class Listed(msgspec.Struct, frozen=True, gc=False):
    """A file of the sender's, of which there may be a million.

    Attributes:
        number: by which it is asked for.
        entry: of a manifest; a regular file's has no digest yet.
        mode: as the sender tells it.
        owner: user and group, likewise.
        same_as: number of an earlier file that it is another name of; -1 if it is none.
    """

    number: int
    entry: Entry
    mode: int
    owner: tuple[int, int]
    same_as: int = -1

    @property
    def has_content(self) -> bool:
        """Tell whether it is a regular file with a content of its own."""
        return self.entry.kind == "f" and self.same_as < 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file's content; ``last`` when there is no more."""

    number: int
    data: bytes
    last: bool


class Told(enum.Enum):
    """What a packet says that carries nothing."""

    ALL_LISTED = "all files are listed"
    OVER = "the other side is done"


class _Phase(enum.Enum):
    LISTING = "listing files"
    SENDING = "sending files"
    ENDING = "ending"
    OVER = "over"


# What a sender may say when; beside them it may always fail.
_ALLOWED = {
    _Phase.LISTING: (Kind.STAT, Kind.DATA),
    _Phase.SENDING: (Kind.DATA,),
    _Phase.ENDING: (Kind.FIN,),
    _Phase.OVER: (),
}


class Receiving:
    """The receiver's side of one transfer."""

    def __init__(self) -> None:
        self._phase = _Phase.LISTING
        self._order = _Order()
        self._count = 0
        self._bytes = 0
        self._regular: dict[str, int] = {}
        self._sizes = array("q")  # of files that can be asked for, once; else -1
        self._owners: dict[tuple[int, int], tuple[int, int]] = {}
        self._left: dict[int, int] = {}  # bytes to come of the files that were asked for

    @property
    def waits(self) -> int:
        """Return how many files have been asked for and not come to their end."""
        return len(self._left)

    def receive(self, packet: Packet) -> Listed | Piece | Told:
        """Take a packet of the sender's.

        Raises:
            InvalidParameterError: it must not say this, now or at all.
            SystemFailureError: it failed, and says why.
        """
        if packet.kind == Kind.ERR:
            raise SystemFailureError(f"error from sender: {packet.data[:1024].decode('utf-8', 'replace')}")
        if packet.kind not in _ALLOWED[self._phase]:
            raise InvalidParameterError(
                f"unexpected packet of the client's: {_name(packet.kind)} while {self._phase.value}"
            )
        if packet.kind == Kind.STAT:
            if packet.stat is not None:
                return self._list(packet.stat)
            self._phase = _Phase.SENDING
            return Told.ALL_LISTED
        if packet.kind == Kind.DATA:
            return self._take(packet.number, packet.data)
        self._phase = _Phase.OVER
        return Told.OVER

    def _list(self, told: Stat) -> Listed:
        self._bytes += len(told.path) + len(told.link) + sum(len(key) + len(item) for key, item in told.xattrs.items())
        if self._count >= MOST_ENTRIES or self._bytes > MANIFEST_LIMIT:
            raise InvalidParameterError(f"too many files in a context: more than {self._count}")
        self._order.check(told.path, directory=told.mode & _KINDS == DIRECTORY)
        number, same_as = self._count, -1
        self._count += 1
        entry = _entry(told)
        check_entry(entry)
        size = -1
        if entry.kind == "f" and told.link:
            same_as = self._regular.get(told.link.decode("latin-1"), -1)
            if same_as < 0:
                raise InvalidParameterError(
                    f"no such file in the context: {_shown(told.link)}: linked to {_shown(told.path)}"
                )
        elif entry.kind == "f":
            self._regular[entry.path] = number
            size = entry.size
        self._sizes.append(size)
        owner = (told.uid, told.gid)
        return Listed(number, entry, told.mode, self._owners.setdefault(owner, owner), same_as)

    def request(self, number: int) -> Packet:
        """Return what asks for the content of a file, once."""
        self._left[number], self._sizes[number] = self._sizes[number], -1
        return Packet(kind=Kind.REQ, number=number)

    def _take(self, number: int, piece: bytes) -> Piece:
        if number not in self._left:
            raise InvalidParameterError(f"the client sent a file that was not asked for: {number}")
        left = self._left[number] - len(piece)
        if left < 0 or (left and not piece):
            raise InvalidParameterError("a file of the context changed while it was sent, or cannot be read")
        self._left[number] = left
        if not piece:
            del self._left[number]
        return Piece(number, piece, last=not piece)

    def finish(self) -> Packet:
        """Return what says that everything has come."""
        self._phase = _Phase.ENDING
        return Packet(kind=Kind.FIN)


class _Order:
    """Checks that a list of paths is a tree, sorted, a directory before what is in it."""

    def __init__(self) -> None:
        self._above: list[bytes] = []  # the directory that was listed last, by its names
        self._last: list[bytes] = [b""]  # the last name in each of the directories on the way to it

    def check(self, path: bytes, *, directory: bool) -> None:
        """Take the next path. Raises InvalidParameterError."""
        names = path.split(b"/")
        if len(path) > _LONGEST or b"\0" in path or any(name in (b"", b".", b"..") for name in names):
            raise InvalidParameterError(f"invalid path in a context: {_shown(path)}")
        depth, name = len(names) - 1, names[-1]
        if self._above[:depth] != names[:-1]:
            raise InvalidParameterError(f"no directory in the context: {_shown(path.rpartition(b'/')[0])}")
        if name <= self._last[depth]:
            raise InvalidParameterError(f"twice in the context, or out of order: {_shown(path)}")
        del self._above[depth:], self._last[depth:]
        self._last.append(name)
        if directory:
            self._above.append(name)
            self._last.append(b"")


def _entry(told: Stat) -> Entry:
    """Return a file as manifests have it. Raises InvalidParameterError: of a kind that a context cannot hold."""
    kind = _OUR_KINDS.get(told.mode & _KINDS)
    if kind is None:
        raise InvalidParameterError(f"a context cannot hold devices and the like: {_shown(told.path)}")
    mode = told.mode & 0o777 | sum(ours for go, ours in _SPECIAL.items() if told.mode & go)
    text = {"f": _NO_DIGEST, "l": told.link.decode("latin-1")}.get(kind, "")
    size = told.size if kind == "f" else 0
    xattrs = _NONE
    if told.xattrs and kind in "df":
        xattrs = {name: value.hex() for name, value in told.xattrs.items() if is_kept_xattr(name.encode())}
    return Entry(told.path.decode("latin-1"), kind, mode, told.mtime, size, text, xattrs)


def _name(kind: int) -> str:
    return Kind(kind).name if kind in list(Kind) else str(kind)


def _shown(path: bytes) -> str:
    return repr(path[:_SHOWN].decode("utf-8", "replace"))


class Sending:
    """The sender's side of one transfer; of the list it only keeps which files may be asked for."""

    def __init__(self) -> None:
        self._count = 0
        self._wanted: set[int] = set()  # files that may be asked for

    def list(self, told: Stat | None) -> Packet:
        """Return what tells of a file, the next in order; of None, that all is told."""
        if told is not None:
            if not told.mode & _KINDS:
                self._wanted.add(self._count)
            self._count += 1
        return Packet(kind=Kind.STAT, stat=told)

    def piece(self, number: int, data: bytes) -> Packet:
        """Return a part of a file's content; an empty one ends it."""
        return Packet(kind=Kind.DATA, number=number, data=data)

    def finish(self) -> Packet:
        """Return what says that the receiver's end has been understood."""
        return Packet(kind=Kind.FIN)

    def receive(self, packet: Packet) -> int | None:
        """Take a packet of the receiver's; returns the number of the file that it wants, None: it has everything.

        Raises:
            InvalidParameterError: it must not say this.
            SystemFailureError: it failed, and says why.
        """
        if packet.kind == Kind.ERR:
            raise SystemFailureError(f"error from receiver: {packet.data[:1024].decode('utf-8', 'replace')}")
        if packet.kind == Kind.FIN:
            return None
        if packet.kind != Kind.REQ or packet.number not in self._wanted:
            raise InvalidParameterError(
                f"unexpected packet of the client's: {_name(packet.kind)} of file {packet.number}"
            )
        self._wanted.remove(packet.number)
        return packet.number
