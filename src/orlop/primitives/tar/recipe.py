"""How to write a layer's tar again, byte for byte, from its unpacked files.

An image's diff id is the digest of a tar that somebody else wrote; its headers cannot be guessed from the files. While
the tar is unpacked, everything of it but the payload of files is kept as a *recipe* (tar-split does this for Docker)::

    recipe = *record
    record = "R" length:u32 bytes                              copy these bytes
           | "F" size:u64 offset:u64 length:u16 path           copy these bytes of the file at this path

Numbers are big-endian, paths relative to the layer's root. The result is only used when its digest is right, so that a
damaged recipe or layer is noticed.
"""

from __future__ import annotations

import os
import stat
import struct

from orlop.errors import DataLossError
from orlop.kernel.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from orlop.primitives.tar.entry import shown

# A tar with more than this beside its files (hostile: headers or rubbish without end) is not kept.
LIMIT = 512 << 20
_RAW = struct.Struct(">cI")
_FILE = struct.Struct(">cQQH")
_BUFFERED = 1 << 18
_SENT_BY_KERNEL = 1 << 16
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class RecipeWriter:
    """Records a tar that is fed in chunks; ``fd`` is the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._chunk = memoryview(b"")
        self._start = 0  # place of the chunk in the tar
        self._done = 0  # place up to which the tar is recorded
        self._buffer = bytearray()
        self._size = 0
        self.usable = True

    def begin_chunk(self, data: bytes) -> None:
        """Say which bytes come next."""
        self._start += len(self._chunk)
        self._chunk = memoryview(data)

    def skip_payload(self, path: bytes, offset: int, end: int, size: int) -> None:
        """Record ``size`` bytes of the tar, up to the place ``end``, as those of a file from ``offset`` on."""
        begin = end - size
        if begin < max(self._done, self._start) or len(path) > 0xFFFF:
            self.usable = False
            return
        self._copy(begin)
        self._write(_FILE.pack(b"F", size, offset, len(path)) + path)
        self._done = end

    def end_chunk(self) -> None:
        """Record what is left of the chunk."""
        self._copy(self._start + len(self._chunk))

    def spoil(self) -> None:
        """Give up: a file that was recorded is being replaced."""
        self.usable = False

    def finish(self) -> bool:
        """Write what is buffered; tell whether the recipe can be used."""
        self._flush()
        return self.usable

    def _copy(self, end: int) -> None:
        raw = self._chunk[self._done - self._start : end - self._start]
        if raw:
            self._write(_RAW.pack(b"R", len(raw)))
            self._write(raw)
            self._done = end

    def _write(self, data: bytes | memoryview) -> None:
        if not self.usable:
            return
        self._size += len(data)
        if self._size > LIMIT:
            self.usable = False
        self._buffer += data
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(self._buffer)
        while view and self.usable:
            view = view[os.write(self._fd, view) :]
        self._buffer = bytearray()


def rebuild(root_fd: int, recipe_fd: int, out_fd: int) -> int:
    """Write the tar again; returns its size in bytes.

    Args:
        root_fd: O_RDONLY descriptor of the root that the layer is the top of.
        recipe_fd: the recipe.
        out_fd: where to.

    Raises:
        DataLossError: the recipe is damaged, or a file is not there as it was.
        OSError: the reader of ``out_fd`` went away, and the like.
    """
    recipe = _Reader(recipe_fd)
    total = 0
    buffer = bytearray()
    while kind := recipe.read(1):
        if kind == b"R":
            (length,) = _unpack(">I", recipe.read(4))
            data = recipe.read(length)
            if len(data) != length:
                raise DataLossError("layer's recipe is damaged")
            buffer += data
            total += length
        elif kind == b"F":
            size, offset, length = _unpack(">QQH", recipe.read(18))
            path = recipe.read(length)
            _copy_file(root_fd, path, (offset, size), out_fd, buffer)
            total += size
        else:
            raise DataLossError("layer's recipe is damaged")
        if len(buffer) >= _BUFFERED:
            _flush(out_fd, buffer)
    _flush(out_fd, buffer)
    return total


def measure(recipe_fd: int) -> int:
    """Return the size of the tar that a recipe makes, in bytes. Raises DataLossError."""
    recipe = _Reader(recipe_fd)
    total = 0
    while kind := recipe.read(1):
        if kind == b"R":
            (length,) = _unpack(">I", recipe.read(4))
            recipe.read(length)
            total += length
        elif kind == b"F":
            size, _, length = _unpack(">QQH", recipe.read(18))
            recipe.read(length)
            total += size
        else:
            raise DataLossError("layer's recipe is damaged")
    return total


class _Reader:
    """Reads a descriptor through a buffer; ``open`` is refused in a forked child."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._offset = 0

    def read(self, count: int) -> bytes:
        """Return ``count`` bytes, or fewer at the end."""
        while len(self._buffer) - self._offset < count:
            data = os.read(self._fd, max(_BUFFERED, count))
            self._buffer = self._buffer[self._offset :] + data
            self._offset = 0
            if not data:
                break
        data = self._buffer[self._offset : self._offset + count]
        self._offset += len(data)
        return data


def _unpack(form: str, data: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(form, data)
    except struct.error:
        raise DataLossError("layer's recipe is damaged") from None


def _copy_file(root_fd: int, path: bytes, part: tuple[int, int], out_fd: int, buffer: bytearray) -> None:
    offset, left = part
    try:
        fd = openat2(root_fd, path, _OPEN, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise DataLossError(f"layer is damaged: /{shown(path)}: {(error.strerror or '').lower()}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataLossError(f"layer is damaged: /{shown(path)}: not a regular file")
        if left >= _SENT_BY_KERNEL:
            _flush(out_fd, buffer)
        while left:
            if left >= _SENT_BY_KERNEL:
                count = os.sendfile(out_fd, fd, offset, left)
            else:
                data = os.pread(fd, left, offset)
                buffer += data
                count = len(data)
            if not count:
                raise DataLossError(f"layer is damaged: /{shown(path)}: shorter than it was")
            offset += count
            left -= count
            if len(buffer) >= _BUFFERED or left >= _SENT_BY_KERNEL:
                _flush(out_fd, buffer)
    finally:
        os.close(fd)


def _flush(out_fd: int, buffer: bytearray) -> None:
    data = bytes(buffer)
    buffer.clear()
    view = memoryview(data)
    while view:
        view = view[os.write(out_fd, view) :]
