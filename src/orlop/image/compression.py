"""Decompress a stream whose compression is told by its first bytes, as Docker does.

Memory is bounded whatever the ratio: output comes in pieces of at most :data:`PIECE` bytes (threats.md E7). The
libraries run here, in the engine, before anything of a container's is entered; no program is looked up (D3).
"""

from __future__ import annotations

import bz2
import contextlib
import enum
import importlib
import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

from orlop.errors import InvalidParameterError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

_gzip_library: ModuleType
try:
    from isal import isal_zlib as _isal

    _gzip_library = _isal
except ImportError:  # other machines than x86_64 and aarch64
    _gzip_library = zlib

_zstd: ModuleType | None = None
for _name in ("compression.zstd", "backports.zstd"):  # Python has it from 3.14
    with contextlib.suppress(ImportError):
        _zstd = importlib.import_module(_name)
        break

_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, _gzip_library.error)
if _zstd is not None:
    _ERRORS += (_zstd.ZstdError,)
PIECE = 1 << 20
PEEK = 10
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW_LOG = 27


class Compressor(Protocol):
    """zlib's compression object."""

    def compress(self, data: bytes, /) -> bytes:
        """Return what is ready after these bytes."""
        ...

    def flush(self) -> bytes:
        """Return the rest."""
        ...


def gzip_compressor() -> Compressor:
    """Return a compressor that is quick rather than thorough: isal's at its level 2, else zlib's at 4."""
    level = 4 if _gzip_library is zlib else 2
    made: Compressor = _gzip_library.compressobj(level=level, wbits=31)
    return made


class Compression(enum.Enum):
    """What Docker recognises; the value is the name in messages."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"


def detect(head: bytes) -> Compression:
    """Tell the compression from a stream's first :data:`PEEK` bytes."""
    if head.startswith(b"\x1f\x8b\x08"):
        return Compression.GZIP
    if head.startswith(b"BZh"):
        return Compression.BZIP2
    if head.startswith(b"\xfd7zXZ\x00"):
        return Compression.XZ
    skippable = len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    if head.startswith(b"\x28\xb5\x2f\xfd") or skippable:
        return Compression.ZSTD
    return Compression.NONE


class _Member(Protocol):
    """One compressed member, in the shape of :class:`bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """Gives zlib's decompressor the shape of the others."""

    def __init__(self) -> None:
        self._inner = _gzip_library.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(out) == max_length
        return bytes(out)


def _zstd_member() -> _Member:
    if _zstd is None:
        raise UnsupportedError("zstd compression needs Python 3.14 or the package backports.zstd")
    options = {_zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    member: _Member = _zstd.ZstdDecompressor(options=options)
    return member


_MEMBERS: dict[Compression, Callable[[], _Member]] = {
    Compression.GZIP: _GzipMember,
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
    Compression.ZSTD: _zstd_member,
}


class Decompressor:
    """Bytes in, decompressed pieces out; detects the compression from what comes first."""

    def __init__(self) -> None:
        self.compression: Compression | None = None
        self._head = b""
        self._member: _Member | None = None
        self._started = False  # the current member has had input
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed pieces of the next bytes.

        Raises:
            InvalidParameterError: damaged.
            UnsupportedError: zstd without its library.
        """
        if self.compression is None:
            self._head += data
            if len(self._head) < PEEK:
                return
            data = self._settle()
        yield from self._decompress(data)

    def finish(self) -> Iterator[bytes]:
        """Yield what was held back; to be called at the end of the stream.

        Raises:
            InvalidParameterError: "unexpected EOF".
        """
        if self.compression is None:
            yield from self._decompress(self._settle())
        if self._member is not None and not self._member.eof and (self._started or not self._members):
            raise InvalidParameterError("unexpected EOF")

    def _settle(self) -> bytes:
        self.compression = detect(self._head)
        head, self._head = self._head, b""
        if self.compression is not Compression.NONE:
            self._member = _MEMBERS[self.compression]()
        return head

    def _decompress(self, data: bytes) -> Iterator[bytes]:
        if self._member is None:
            if data:
                yield data
            return
        while True:
            if self._member.eof:
                # Members may follow each other; zeros after the last one are padding (gzip(1)).
                data = self._member.unused_data or data
                if not data.strip(b"\0"):
                    return
                assert self.compression is not None  # noqa: S101 - set before the first member
                self._member = _MEMBERS[self.compression]()
                self._started = False
                self._members += 1
            if not data and self._member.needs_input:
                return
            try:
                self._started = self._started or bool(data)
                piece = self._member.decompress(data, PIECE)
            except _ERRORS as error:
                name = self.compression.value if self.compression else ""
                raise InvalidParameterError(f"{name}: invalid data: {error}") from None
            data = b""
            if piece:
                yield piece
