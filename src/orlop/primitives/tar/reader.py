"""A tar parser without I/O: bytes in, events out.

::

    feed(bytes) ──▶ next_event() ──▶ Entry           a member begins
                                     memoryview      a piece of its payload, only after an Entry of kind FILE
                                     Signal.NEED     feed more, or say finish()
                                     Signal.END      the archive ended; feed's further bytes are ignored

Read: v7, ustar, star, GNU (long names, base-256 numbers, old sparse) and pax (including its three sparse forms).
Names are not judged here; the unpacker resolves them (threats.md D6). Errors are Go's archive/tar's words, which are
Docker's.
"""

from __future__ import annotations

from orlop.primitives.tar.entry import INVALID_HEADER, KINDS, UNEXPECTED_EOF, Entry, Kind, Limits, TarError, shown
from orlop.primitives.tar.header import BLOCK, Header, parse_header
from orlop.primitives.tar.pax import PaxRecords, parse_pax
from orlop.primitives.tar.sparse import SparseMap, pax_one_map, pax_zero_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import ClassVar

_ZERO = bytes(BLOCK)
_FILE_FLAGS = frozenset((b"0", b"\0", b"7", b"S"))
_KINDS: Mapping[bytes, Kind] = {kind.value: kind for kind in KINDS} | dict.fromkeys(_FILE_FLAGS, Kind.FILE)


class Signal:
    """An event without content."""

    __slots__ = ()

    NEED: ClassVar[Signal]
    END: ClassVar[Signal]


Signal.NEED, Signal.END = Signal(), Signal()


Event = Entry | memoryview | Signal


class TarReader:
    """Owns the unread bytes and the place in the archive."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = b""
        self._offset = 0
        self._fed = 0
        self._finished = False
        self._ended = False
        self._payload = 0  # bytes of the current member still to come
        self._padding = 0
        self._entries = 0
        self._pax: PaxRecords | None = None
        self._long_name: bytes | None = None
        self._long_target: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the archive."""
        if self._ended:
            return
        self._fed += len(data)
        rest = len(self._buffer) - self._offset
        self._buffer = self._buffer[self._offset :] + data if rest else data
        self._offset = 0

    @property
    def position(self) -> int:
        """How many bytes of the archive have been turned into events; not kept beyond its end."""
        return self._fed - len(self._buffer) + self._offset

    def finish(self) -> None:
        """Say that no more bytes will come."""
        self._finished = True

    def next_event(self) -> Event:
        """Return what comes next.

        Raises:
            TarError: the archive is damaged, cut short, or beyond the limits.
        """
        if self._payload:
            return self._next_payload()
        while not self._ended:
            if self._padding and not self._skip_padding():
                return self._want()
            block = self._take(BLOCK)
            if block is None:
                return self._want()
            if block == _ZERO:
                return self._end()
            entry = self._member(parse_header(block), block)
            if entry is None:
                return self._want()
            if isinstance(entry, Entry):
                return entry
        return Signal.END

    def _next_payload(self) -> Event:
        available = len(self._buffer) - self._offset
        if not available:
            return self._want()
        count = min(available, self._payload)
        piece = memoryview(self._buffer)[self._offset : self._offset + count]
        self._offset += count
        self._payload -= count
        return piece

    def _skip_padding(self) -> bool:
        available = len(self._buffer) - self._offset
        if available < self._padding:
            return False
        self._offset += self._padding
        self._padding = 0
        return True

    def _take(self, count: int) -> bytes | None:
        """Return ``count`` bytes, or None without consuming any."""
        end = self._offset + count
        if len(self._buffer) < end:
            return None
        data = self._buffer[self._offset : end]
        self._offset = end
        return data

    def _want(self) -> Signal:
        if not self._finished:
            return Signal.NEED
        # Like Go, a missing end marker and missing padding of the last member are forgiven.
        between_members = not self._payload and self._offset == len(self._buffer)
        if between_members and self._pax is None and self._long_name is None and self._long_target is None:
            return self._end()
        raise TarError(UNEXPECTED_EOF)

    def _end(self) -> Signal:
        self._ended = True
        self._buffer, self._offset = b"", 0
        return Signal.END

    def _member(self, header: Header, block: bytes) -> Entry | Signal | None:
        """Turn a header into an entry; NEED means it was a record of metadata, None that bytes are missing."""
        flag = header.flag
        if flag in (b"x", b"g", b"L", b"K"):
            record = self._metadata(header)
            if record is None:
                self._offset -= BLOCK
                return None
            if flag == b"x":
                self._pax = parse_pax(record)
            elif flag == b"L":
                self._long_name = record.split(b"\0", 1)[0]
            elif flag == b"K":
                self._long_target = record.split(b"\0", 1)[0]
            return Signal.NEED
        if flag not in _KINDS:
            raise TarError(f"unhandled tar header type {flag[0]} of {shown(header.name)}")
        start = self._offset - BLOCK
        entry = self._entry(header, block)
        if entry is None:
            self._offset = start
            return None
        self._entries += 1
        if self._limits.entries and self._entries > self._limits.entries:
            raise TarError(f"too many entries in the archive: more than {self._limits.entries}")
        self._pax = self._long_name = self._long_target = None
        return entry

    def _metadata(self, header: Header) -> bytes | None:
        size = header.size
        if self._limits.metadata and size > self._limits.metadata:
            raise TarError(f"archive/tar: header field too long: {size} bytes")
        padded = -(-size // BLOCK) * BLOCK
        record = self._take(padded)
        return None if record is None else record[:size]

    def _entry(self, header: Header, block: bytes) -> Entry | None:
        pax = self._pax or PaxRecords()
        name = pax.path or self._long_name or header.name
        target = pax.linkpath or self._long_target or header.linkname
        size = header.size if pax.size is None else pax.size
        kind = _KINDS[header.flag]
        sparse: SparseMap | None = None
        if kind is Kind.FILE:
            if header.flag in (b"\0", b"0") and name.endswith(b"/"):
                kind, size = Kind.DIRECTORY, 0
            elif header.flag == b"S":
                taken = self._old_sparse(header, block)
                if taken is None:
                    return None
                sparse = taken
            elif pax.is_sparse:
                name = pax.sparse_name or name
                if pax.sparse_major == 1:
                    stored = self._pax_one(pax, size)
                    if stored is None:
                        return None
                    sparse, size = stored
                else:
                    sparse = pax_zero_map(pax, size)
        else:
            size = 0
        if sparse is not None and sum(length for _, length in sparse.regions) != size:
            raise TarError(INVALID_HEADER)
        self._judge(name, target)
        self._payload, self._padding = size, -size % BLOCK
        return Entry(
            name,
            kind,
            header.mode & 0o7777,
            header.uid if pax.uid is None else pax.uid,
            header.gid if pax.gid is None else pax.gid,
            header.mtime * 1_000_000_000 if pax.mtime is None else pax.mtime,
            size,
            target,
            header.device,
            pax.xattrs,
            None if sparse is None else sparse.regions,
            size if sparse is None else sparse.real_size,
        )

    def _judge(self, name: bytes, target: bytes) -> None:
        limit = self._limits.path
        if limit and (len(name) > limit or len(target) > limit):
            raise TarError(f"archive/tar: name too long: {shown(name)}")
        if b"\0" in name or b"\0" in target:
            raise TarError(INVALID_HEADER)

    def _old_sparse(self, header: Header, block: bytes) -> SparseMap | None:
        sparse = SparseMap.from_gnu(block, self._limits)
        while sparse.more:
            extension = self._take(BLOCK)
            if extension is None:
                return None
            sparse = sparse.extended(extension, self._limits)
        return sparse.checked(header.size)

    def _pax_one(self, pax: PaxRecords, size: int) -> tuple[SparseMap, int] | None:
        """Read the map that format 1.0 puts before the data; return it and the bytes of data."""
        available = self._buffer[self._offset : self._offset + min(size, self._limits.metadata or size)]
        parsed = pax_one_map(pax, available, complete=len(available) >= size)
        if parsed is None:
            if self._limits.metadata and len(available) >= self._limits.metadata:
                raise TarError(f"archive/tar: sparse map too long: {shown(pax.sparse_name or b'')}")
            return None
        sparse, used = parsed
        self._offset += used
        return sparse.checked(size - used), size - used
