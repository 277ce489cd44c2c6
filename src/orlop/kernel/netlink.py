"""AF_NETLINK: messages, attributes, batches, acknowledgements (netlink(7), include/uapi/linux/netlink.h).

A batch is several requests in one ``sendmsg``: the kernel works through all of them before the call returns. Only the
last one asks for an acknowledgement; an error is always reported, so one short read tells how the whole batch went.
"""

from __future__ import annotations

import errno as errno_names
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel.syscall import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_ROOT = 0x100
NLM_F_REPLACE = 0x100
NLM_F_MATCH = 0x200
NLM_F_EXCL = 0x200
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH

NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_ERROR = struct.Struct("=i")
_RECEIVE_SIZE = 64 * 1024
_DUMP_ATTEMPTS = 8


class NetlinkError(SyscallError):
    """The kernel refused a request.

    Attributes:
        operation: what was asked, in words ("add link eth0").
        arguments: the kernel's own explanation (extended acknowledgement), where it gave one.
    """

    def __str__(self) -> str:
        name = errno_names.errorcode.get(self.errno or 0, str(self.errno))
        return ": ".join((self.operation, f"{os.strerror(self.errno or 0).lower()} ({name})", *self.arguments))


@dataclass(frozen=True, slots=True)
class Request:
    """One message to be sent: its type, flags (beyond NLM_F_REQUEST), body, and what it asks in words."""

    kind: int
    flags: int
    body: bytes
    describe: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message received: its type, flags and body."""

    kind: int
    flags: int
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length & 3)


def attribute_u32(kind: int, value: int) -> bytes:
    """Return an attribute of a 32-bit number in host order."""
    return struct.pack("=HHI", 8, kind, value)


def attribute_text(kind: int, value: str) -> bytes:
    """Return an attribute of a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes by type; of a repeated type the last one wins.

    Raises:
        ValueError: a length points outside ``data``.
    """
    found: dict[int, bytes] = {}
    offset, end = 0, len(data)
    while end - offset >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise ValueError(f"bad netlink attribute: length {length} at {offset} of {end}")
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def text(payload: bytes) -> str:
    """Return a string attribute's text."""
    return payload.rstrip(b"\0").decode("utf-8", "replace")


def encode(requests: Sequence[Request], sequence: int, *, acknowledged: bool = True) -> bytes:
    """Return the batch's bytes; request i has sequence number ``sequence + i``, only the last may ask for an ack."""
    parts: list[bytes] = []
    last = len(requests) - 1
    for index, request in enumerate(requests):
        flags = request.flags | NLM_F_REQUEST
        if acknowledged and index == last and flags & NLM_F_DUMP != NLM_F_DUMP:
            flags |= NLM_F_ACK
        length = _HEADER.size + len(request.body)
        parts.append(_HEADER.pack(length, request.kind, flags, sequence + index, 0))
        parts.append(request.body + b"\0" * (-length & 3))
    return b"".join(parts)


def decode(data: bytes) -> Iterator[tuple[int, Message]]:
    """Yield (sequence number, message) for each message of one read.

    Raises:
        ValueError: a length points outside ``data``.
    """
    offset, end = 0, len(data)
    while end - offset >= _HEADER.size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > end:
            raise ValueError(f"bad netlink message: length {length} at {offset} of {end}")
        yield sequence, Message(kind, flags, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def _error_of(message: Message, request: str) -> NetlinkError | None:
    (code,) = _ERROR.unpack_from(message.body)
    if code == 0:
        return None
    reason = ""
    if message.flags & NLM_F_ACK_TLVS:
        # struct nlmsgerr: error, header of the request, and, unless capped, the request's body; then attributes
        (original,) = struct.unpack_from("=I", message.body, 4)
        skip = 4 + (_HEADER.size if message.flags & NLM_F_CAPPED else (original + 3) & ~3)
        reason = text(parse_attributes(message.body[skip:]).get(NLMSGERR_ATTR_MSG, b""))
    return NetlinkError(request, -code, (reason,) if reason else ())


class NetlinkSocket:
    """Sends requests over one AF_NETLINK socket and reads the answers; owns the socket.

    The socket acts in the network namespace in which it was opened, wherever it is used.
    Not for use by two threads at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sequence = 1
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            sock.setsockopt(_SOL_NETLINK, option, 1)

    @classmethod
    def open(cls, protocol: int = socket.NETLINK_ROUTE) -> NetlinkSocket:
        """Open a close-on-exec socket in the caller's network namespace."""
        return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol))

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, *requests: Request) -> list[Message]:
        """Send a batch and return the messages that answered it (none for plain changes).

        All requests are carried out, also those after one that failed.

        Raises:
            NetlinkError: the first request that failed.
        """
        if not requests:
            return []
        first = self._send(requests)
        last = first + len(requests) - 1
        answers: list[Message] = []
        failure: NetlinkError | None = None
        while True:
            for sequence, message in decode(self._receive()):
                if not first <= sequence <= last:
                    continue  # left over from a call that was interrupted
                if message.kind == NLMSG_ERROR:
                    failure = failure or _error_of(message, requests[sequence - first].describe)
                    if sequence == last:
                        if failure is not None:
                            raise failure
                        return answers
                else:
                    answers.append(message)

    def execute_batch(self, *requests: Request) -> None:
        """Send a transaction of nfnetlink: the first and last request enclose it, all or nothing is carried out.

        Only the kernel's newest versions acknowledge the last one, so the one before it is asked to.

        Raises:
            NetlinkError: the first request that failed.
        """
        first = self._sequence
        self._sequence = (first + len(requests)) & 0x3FFFFFFF or 1
        data = encode(requests[:-1], first) + encode(requests[-1:], first + len(requests) - 1, acknowledged=False)
        self._socket.send(data)
        last = first + len(requests) - 2
        failure: NetlinkError | None = None
        while True:
            for sequence, message in decode(self._receive()):
                if message.kind == NLMSG_ERROR and first <= sequence <= last:
                    failure = failure or _error_of(message, requests[sequence - first].describe)
                    if sequence == last:
                        if failure is not None:
                            raise failure
                        return

    def dump(self, request: Request) -> list[Message]:
        """Return all objects that a NLM_F_DUMP request lists; asks again when the list changed meanwhile.

        Raises:
            NetlinkError: the kernel refused, or the list did not hold still (EAGAIN).
        """
        for _ in range(_DUMP_ATTEMPTS):
            answers = self._dump_once(request)
            if answers is not None:
                return answers
        raise NetlinkError(request.describe, errno_names.EAGAIN, ("the list kept changing",))

    def _dump_once(self, request: Request) -> list[Message] | None:
        wanted = self._send((request,))
        answers: list[Message] = []
        intact = True
        while True:
            for sequence, message in decode(self._receive()):
                if sequence != wanted:
                    continue
                intact = intact and not message.flags & NLM_F_DUMP_INTR
                if message.kind == NLMSG_ERROR or (message.kind == NLMSG_DONE and len(message.body) >= 4):
                    failure = _error_of(message, request.describe)
                    if failure is not None:
                        raise failure
                if message.kind in (NLMSG_DONE, NLMSG_ERROR):
                    return answers if intact else None
                answers.append(message)

    def _send(self, requests: Sequence[Request]) -> int:
        first = self._sequence
        self._sequence = (first + len(requests)) & 0x3FFFFFFF or 1
        self._socket.send(encode(requests, first))
        return first

    def _receive(self) -> bytes:
        data, _, flags, _ = self._socket.recvmsg(_RECEIVE_SIZE)
        if flags & socket.MSG_TRUNC:
            raise NetlinkError("receive", errno_names.EMSGSIZE, (f"message longer than {_RECEIVE_SIZE} bytes",))
        return data
