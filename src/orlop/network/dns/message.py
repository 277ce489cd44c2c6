"""DNS messages (RFC 1035, RFC 6891): bytes in, values out, and back. Nothing here touches a socket.

Queries are a container's and answers an upstream server's: both are hostile. Only the header and the one question are
ever read, so there is no compression to follow; what is passed on is passed on as bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

TYPE_A, TYPE_PTR, TYPE_AAAA, TYPE_OPT, TYPE_ANY = 1, 12, 28, 41, 255
CLASS_IN = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = range(6)
UDP_SIZE = 512  # bytes of an answer over UDP unless the client can take more (RFC 1035 section 4.2.1)
LONGEST = 65535
_HEADER = struct.Struct(">HHHHHH")  # id, flags, questions, answers, authorities, additional records
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE, _RCODE = 0x7800, 0x000F
_QUESTION_AT = _HEADER.size
_POINTER_TO_QUESTION = struct.pack(">H", 0xC000 | _QUESTION_AT)
_LONGEST_NAME = 255


class MessageError(ValueError):
    """These bytes are no query that could be answered.

    Attributes:
        reply: what to answer, b"" for nothing at all.
    """

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Query:
    """A question.

    Attributes:
        identity: the number that the answer repeats.
        name: lower case, without the last dot; "" is the root. Bytes that are no letters are kept as Latin-1.
        kind: TYPE_A and so on.
        klass: CLASS_IN, mostly.
        question: the question section as it came.
        size: the longest answer over UDP that the client takes.
        wants_recursion: the client's RD flag.
    """

    identity: int
    name: str
    kind: int
    klass: int
    question: bytes
    size: int
    wants_recursion: bool


def parse_query(data: bytes) -> Query:
    """Read a query.

    Raises:
        MessageError: it is none, or asks for what no server does.
    """
    if len(data) < _HEADER.size:
        raise MessageError("shorter than a header")
    identity, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        raise MessageError("not a query")
    if flags & _OPCODE:
        raise MessageError("not a standard query", _bare(identity, flags, NOT_IMPLEMENTED))
    refusal = _bare(identity, flags, FORMAT_ERROR)
    if questions != 1 or answers or authorities:
        raise MessageError("not exactly one question", refusal)
    try:
        name, end = _read_name(data, _QUESTION_AT)
        kind, klass = struct.unpack_from(">HH", data, end)
    except (struct.error, IndexError, ValueError) as error:
        raise MessageError("malformed question", refusal) from error
    size = _edns_size(data, end + 4) if additional else 0
    question = data[_QUESTION_AT : end + 4]
    return Query(identity, name, kind, klass, question, max(size, UDP_SIZE), bool(flags & _RD))


def _bare(identity: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(identity, _QR | _RA | (flags & (_OPCODE | _RD)) | code, 0, 0, 0, 0)


def _read_name(data: bytes, offset: int) -> tuple[str, int]:
    labels: list[str] = []
    start = offset
    while length := data[offset]:
        if length > 63:
            raise ValueError("a pointer in a question")
        label = data[offset + 1 : offset + 1 + length]
        offset += 1 + length
        if len(label) != length or offset - start >= _LONGEST_NAME:
            raise ValueError("name too long")
        if b"." in label:
            raise ValueError("a dot in a label")
        labels.append(label.lower().decode("latin-1"))
    return ".".join(labels), offset + 1


def _edns_size(data: bytes, offset: int) -> int:
    """Return the size that an OPT record right behind the question tells, else 0."""
    try:
        root, kind, size = struct.unpack_from(">BHH", data, offset)
    except struct.error:
        return 0
    return min(int(size), 4096) if (root, kind) == (0, TYPE_OPT) else 0


def address_record(address: IPv4Address | IPv6Address, ttl: int) -> bytes:
    """Return an A or AAAA record of the question's name."""
    return _record(TYPE_A if address.version == 4 else TYPE_AAAA, ttl, address.packed)


def pointer_record(name: str, ttl: int) -> bytes:
    """Return a PTR record of the question's name."""
    return _record(TYPE_PTR, ttl, encode_name(name))


def _record(kind: int, ttl: int, data: bytes) -> bytes:
    return _POINTER_TO_QUESTION + struct.pack(">HHIH", kind, CLASS_IN, ttl, len(data)) + data


def encode_name(name: str) -> bytes:
    """Return a name's labels. Raises ValueError: one is empty or longer than 63 bytes."""
    parts = []
    for label in name.rstrip(".").split("."):
        packed = label.encode("latin-1", "replace")
        if not 0 < len(packed) < 64:
            raise ValueError(f"not a domain name: {name!r}")
        parts.append(bytes([len(packed)]) + packed)
    return b"".join(parts) + b"\0"


def build_answer(query: Query, records: Sequence[bytes] = (), *, code: int = NO_ERROR, tcp: bool = False) -> bytes:
    """Return an answer; over UDP one that is too long has the TC flag and no records: the client asks by TCP then."""
    flags = _QR | _RA | (_RD if query.wants_recursion else 0) | code
    if records:
        flags |= _AA if code == NO_ERROR else 0
    body = query.question + b"".join(records)
    if not tcp and _HEADER.size + len(body) > query.size:
        return _HEADER.pack(query.identity, flags | _TC, 1, 0, 0, 0) + query.question
    return _HEADER.pack(query.identity, flags, 1, len(records), 0, 0) + body


def with_identity(data: bytes, identity: int) -> bytes:
    """Return a message under another number."""
    return struct.pack(">H", identity) + data[2:]


def answers(data: bytes, identity: int, question: bytes) -> bool:
    """Tell whether ``data`` is an answer to exactly this question (threats.md G11)."""
    if len(data) < _HEADER.size:
        return False
    found, flags, questions, *_ = _HEADER.unpack_from(data)
    if found != identity or not flags & _QR:
        return False
    if questions == 0:
        return result_code(data) != NO_ERROR  # some servers leave the question out of an error
    end = _QUESTION_AT + len(question)
    return questions == 1 and data[_QUESTION_AT:end].lower() == question.lower()


def answer_count(data: bytes) -> int:
    """Return how many records an answer says that it has."""
    return int(_HEADER.unpack_from(data)[3])


def result_code(data: bytes) -> int:
    """Return the RCODE of an answer."""
    return int(_HEADER.unpack_from(data)[1]) & _RCODE


def truncated(data: bytes, question: bytes) -> bytes:
    """Return an answer that is too long for UDP without its records and with the TC flag."""
    identity, flags, *_ = _HEADER.unpack_from(data)
    return _HEADER.pack(identity, flags | _TC, 1, 0, 0, 0) + question
