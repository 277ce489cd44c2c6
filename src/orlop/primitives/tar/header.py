"""The 512-byte header block of tar, both ways, without I/O.

::

    0 name[100] 100 mode[8] 108 uid[8] 116 gid[8] 124 size[12] 136 mtime[12] 148 chksum[8] 156 typeflag
    157 linkname[100] 257 magic[6] 263 version[2] 265 uname[32] 297 gname[32] 329 devmajor[8] 337 devminor[8]
    345 prefix[155]                                        (POSIX.1-2017, pax, "ustar Interchange Format")
"""

from __future__ import annotations

import struct

from orlop.primitives.tar.entry import INVALID_HEADER, TarError
from orlop.spec.record import dataclass

BLOCK = 512
_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_USTAR = b"ustar\x0000"
_GNU = b"ustar  \x00"
_STAR_TRAILER = b"tar\0"
_NUMBER_LIMIT = 1 << 62


@dataclass(frozen=True)
class Header:
    """The decoded fields of one block; ``mtime`` in seconds."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    flag: bytes
    linkname: bytes
    device: tuple[int, int]


def parse_number(field: bytes) -> int:
    """Read an octal or base-256 number.

    Raises:
        TarError: not a number, or beyond 62 bits.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = len(field) * 8
        value &= (1 << (bits - 1)) - 1
        if field[0] & 0x40:
            value -= 1 << (bits - 1)
    else:
        digits = field.split(b"\0", 1)[0].strip(b" ") or field.strip(b" \0")
        if not digits:
            return 0
        if not digits.isdigit():
            raise TarError(INVALID_HEADER)
        try:
            value = int(digits, 8)
        except ValueError:
            raise TarError(INVALID_HEADER) from None
    if not -_NUMBER_LIMIT < value < _NUMBER_LIMIT:
        raise TarError(INVALID_HEADER)
    return value


def parse_header(block: bytes) -> Header:
    """Decode one header block.

    Raises:
        TarError: the checksum or a number is wrong, or the size is negative.
    """
    name, mode, uid, gid, size, mtime, checksum, flag, linkname, magic, _, _, major, minor, prefix = _FIELDS.unpack(
        block,
    )
    stored = parse_number(checksum)
    if sum(block) - sum(checksum) + 256 != stored and _signed_sum(block) != stored:
        raise TarError(INVALID_HEADER)
    name = name.split(b"\0", 1)[0]
    if magic == _USTAR:
        if block[508:512] == _STAR_TRAILER:
            prefix = prefix[:131]
        prefix = prefix.split(b"\0", 1)[0]
        if prefix:
            name = prefix + b"/" + name
    has_device = flag in b"34" and magic in (_USTAR, _GNU)
    count = parse_number(size)
    if count < 0:
        raise TarError(INVALID_HEADER)
    return Header(
        name,
        parse_number(mode),
        parse_number(uid),
        parse_number(gid),
        count,
        parse_number(mtime),
        flag,
        linkname.split(b"\0", 1)[0],
        (parse_number(major), parse_number(minor)) if has_device else (0, 0),
    )


def _signed_sum(block: bytes) -> int:
    """Return the sum that some old writers made of signed characters."""
    values = block[:148] + b" " * 8 + block[156:]
    return sum(value - 256 if value > 127 else value for value in values)


def fits_octal(value: int, width: int) -> bool:
    """Tell whether ``value`` fits an octal field of ``width`` bytes with its terminator."""
    return 0 <= value < 1 << (3 * (width - 1))


def render_header(header: Header, prefix: bytes = b"") -> bytes:
    """Encode one ustar block; the caller has made sure that every field fits."""
    block = bytearray(
        _FIELDS.pack(
            header.name,
            b"%07o\0" % header.mode,
            b"%07o\0" % header.uid,
            b"%07o\0" % header.gid,
            b"%011o\0" % header.size,
            b"%011o\0" % header.mtime,
            b"        ",
            header.flag,
            header.linkname,
            _USTAR,
            b"",
            b"",
            b"%07o\0" % header.device[0],
            b"%07o\0" % header.device[1],
            prefix,
        ),
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
