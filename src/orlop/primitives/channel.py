"""Typed messages with descriptors over a SOCK_SEQPACKET socket.

One packet is one JSON object, UTF-8. A message above :data:`INLINE_LIMIT` travels in a sealed memfd whose descriptor
comes first in the packet's SCM_RIGHTS list; the packet is then ``b"*"``. Nothing else is accepted: a packet that is
not an object, is truncated, or carries more than :data:`MAX_FDS` descriptors is a :class:`ProtocolError`.

The codec (:func:`encode`, :func:`decode`) does no I/O beyond the memfd; :class:`Channel` blocks; the engine's event
loop uses the same two functions around non-blocking ``sendmsg`` and ``recvmsg``.
"""

from __future__ import annotations

import fcntl
import os
import struct

from orlop.errors import OrlopError
from orlop.kernel.plain import socket
from orlop.primitives.json_text import dumps, loads
from orlop.primitives.owned_fd import OwnedFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.spec.json import JsonObject

INLINE_LIMIT = 64 * 1024
MESSAGE_LIMIT = 16 * 1024 * 1024
MAX_FDS = 32
_SPILLED = b"*"
_FD_SIZE = 4  # an int
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ProtocolError(OrlopError):
    """The peer broke the channel's rules; the connection is to be closed."""

    kind = "protocol"


def encode(message: JsonObject, fds: Sequence[int] = ()) -> tuple[bytes, list[int], OwnedFd | None]:
    """Return the packet, the descriptors to send with it, and the memfd to close after sending (or None)."""
    data = dumps(message).encode()
    if len(fds) >= MAX_FDS or len(data) > MESSAGE_LIMIT:
        raise ProtocolError(f"message too large: {len(data)} bytes, {len(fds)} descriptors")
    if len(data) <= INLINE_LIMIT:
        return data, list(fds), None
    spill = OwnedFd(os.memfd_create("orlop-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(spill.fileno(), view) :]
        fcntl.fcntl(spill.fileno(), fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        spill.close()
        raise
    return _SPILLED, [spill.fileno(), *fds], spill


def decode(packet: bytes, fds: list[OwnedFd]) -> tuple[JsonObject, list[OwnedFd]]:
    """Turn a packet into its message and descriptors; on error every descriptor is closed."""
    try:
        if packet == _SPILLED:
            packet = _read_spill(fds)
        message = loads(packet)
        if not isinstance(message, dict):
            raise ProtocolError("not an object")
    except (ProtocolError, ValueError, RecursionError, OSError) as error:
        for fd in fds:
            fd.close()
        raise ProtocolError(f"bad message: {error}") from error
    return message, fds


def _read_spill(fds: list[OwnedFd]) -> bytes:
    if not fds:
        raise ProtocolError("spilled message without its memfd")
    with fds.pop(0) as spill:
        if fcntl.fcntl(spill.fileno(), fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ProtocolError("spilled message is not sealed")
        size = os.fstat(spill.fileno()).st_size
        if size > MESSAGE_LIMIT:
            raise ProtocolError(f"message too large: {size} bytes")
        return os.pread(spill.fileno(), size, 0)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[OwnedFd]]:
    """Receive one packet and its descriptors (close-on-exec). An empty packet means that the peer is gone."""
    space = socket.CMSG_SPACE(MAX_FDS * _FD_SIZE)
    data, ancillary, flags, _ = sock.recvmsg(INLINE_LIMIT + 1, space, socket.MSG_CMSG_CLOEXEC)
    fds: list[OwnedFd] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            count = len(payload) // _FD_SIZE
            fds.extend(OwnedFd(number) for number in struct.unpack_from(f"{count}i", payload))
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            fd.close()
        raise ProtocolError("packet was truncated")
    return data, fds


def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    """Send one packet with descriptors; raises BlockingIOError on a full non-blocking socket."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)


class Channel:
    """A blocking end of a message channel; owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return two connected ends, both close-on-exec."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        return cls(left), cls(right)

    @classmethod
    def from_fd(cls, fd: OwnedFd) -> Channel:
        """Take over a descriptor of a connected SOCK_SEQPACKET socket."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd.release()))

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def socket(self) -> socket.socket:
        """The socket, which stays the channel's, for :func:`send_packet` where nothing may be encoded any more."""
        return self._socket

    def send(self, message: JsonObject, fds: Sequence[int] = ()) -> None:
        """Send a message; the descriptors stay the caller's. Raises OSError when the peer is gone."""
        packet, all_fds, spill = encode(message, fds)
        try:
            send_packet(self._socket, packet, all_fds)
        finally:
            if spill is not None:
                spill.close()

    def receive(self) -> tuple[JsonObject, list[OwnedFd]] | None:
        """Wait for a message; None when the peer closed its end. Raises ProtocolError."""
        try:
            packet, fds = receive_packet(self._socket)
        except ConnectionResetError:
            return None
        if not packet:
            for fd in fds:
                fd.close()
            return None
        return decode(packet, fds)

    def set_blocking(self, blocking: bool) -> None:  # noqa: FBT001 - as socket.setblocking
        """Make :meth:`send` and :meth:`receive` raise BlockingIOError instead of waiting, or wait again."""
        self._socket.setblocking(blocking)

    def detach(self) -> int:
        """Give the socket's descriptor away."""
        return self._socket.detach()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
