"""Pax extended header records: length, space, key, equals sign, value, newline (POSIX.1-2017, "pax Header Block")."""

from __future__ import annotations

from orlop.primitives.tar.entry import INVALID_HEADER, TarError
from orlop.spec.record import dataclass, field

_XATTR = b"SCHILY.xattr."
_NUMBER_DIGITS = 18
_LENGTH_DIGITS = 19


@dataclass
class PaxRecords:
    """The records of one extended header that mean something here; None where a record is absent.

    ``mtime`` is in nanoseconds. ``sparse_*`` are GNU tar's (info tar, "Sparse Formats").
    """

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse_name: bytes | None = None
    sparse_major: int | None = None
    sparse_size: int | None = None
    sparse_map: bytes | None = None
    sparse_numbers: list[bytes] = field(default_factory=list)

    @property
    def is_sparse(self) -> bool:
        """Whether the member is a sparse file in one of the pax forms."""
        return self.sparse_major is not None or self.sparse_map is not None or bool(self.sparse_numbers)


def parse_pax(record: bytes) -> PaxRecords:
    """Read an extended header's payload.

    Raises:
        TarError: a record's length, number or terminator is wrong.
    """
    records = PaxRecords()
    position = 0
    while position < len(record):
        space = record.find(b" ", position, position + _LENGTH_DIGITS)
        length = record[position:space] if space > position else b""
        if not length.isdigit():
            raise TarError(INVALID_HEADER)
        end = position + int(length)
        equals = record.find(b"=", space, end)
        if end > len(record) or end <= space + 1 or record[end - 1 : end] != b"\n" or equals < 0:
            raise TarError(INVALID_HEADER)
        _set(records, record[space + 1 : equals], record[equals + 1 : end - 1])
        position = end
    return records


def _set(records: PaxRecords, key: bytes, value: bytes) -> None:
    match key:
        case b"path":
            records.path = value
        case b"linkpath":
            records.linkpath = value
        case b"size":
            records.size = _number(value)
        case b"uid":
            records.uid = _number(value)
        case b"gid":
            records.gid = _number(value)
        case b"mtime":
            records.mtime = parse_time(value)
        case _ if key.startswith(_XATTR):
            records.xattrs[key[len(_XATTR) :]] = value
        case _ if key.startswith(b"GNU.sparse."):
            _set_sparse(records, key[len(b"GNU.sparse.") :], value)


def _set_sparse(records: PaxRecords, key: bytes, value: bytes) -> None:
    match key:
        case b"name":
            records.sparse_name = value
        case b"major":
            records.sparse_major = _number(value)
        case b"realsize" | b"size":
            records.sparse_size = _number(value)
        case b"map":
            records.sparse_map = value
        case b"offset" | b"numbytes":
            records.sparse_numbers.append(value)


def _number(value: bytes) -> int | None:
    if not value:
        return None
    if not value.isdigit() or len(value) > _NUMBER_DIGITS:
        raise TarError(INVALID_HEADER)
    return int(value)


def parse_time(value: bytes) -> int | None:
    """Read decimal seconds as nanoseconds; digits beyond the ninth are dropped."""
    if not value:
        return None
    seconds, _, fraction = value.removeprefix(b"-").partition(b".")
    if not seconds.isdigit() or len(seconds) > _NUMBER_DIGITS or not (not fraction or fraction.isdigit()):
        raise TarError(INVALID_HEADER)
    total = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -total if value.startswith(b"-") else total


def render_time(nanoseconds: int) -> bytes:
    """Write nanoseconds as decimal seconds without trailing zeros."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    digits = (b".%09d" % fraction).rstrip(b"0") if fraction else b""
    return sign + b"%d" % seconds + digits


def render_record(key: bytes, value: bytes) -> bytes:
    """Write one record; its length counts its own digits."""
    content = b" " + key + b"=" + value + b"\n"
    length = len(content) + 1
    while length != len(content) + len(str(length)):
        length = len(content) + len(str(length))
    return b"%d" % length + content
