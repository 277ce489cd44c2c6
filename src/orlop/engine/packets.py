"""Packets of ``orlop.primitives.channel`` on an asyncio loop: one non-blocking SOCK_SEQPACKET socket.

The socket belongs to the :class:`PacketSocket`. Everything happens on the loop's own thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.primitives.channel import ProtocolError, decode, encode, receive_packet, send_packet

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.json import JsonObject

# Packets read in one turn of the loop: a chatty peer must not starve the others.
_BATCH = 32


class PacketSocket:
    """One end of a channel, watched by the running loop.

    Args:
        sock: taken over; made non-blocking.
        received: called with each message and its descriptors, which then belong to the callee.
        closed: called once when the peer is gone or broke the protocol; not called by :meth:`close`.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[JsonObject, list[OwnedFd]], None],
        closed: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._received = received
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._open

    async def send(self, message: JsonObject, fds: Sequence[int] = ()) -> None:
        """Send a message; the descriptors stay the caller's. Raises OSError when the peer is gone."""
        packet, all_fds, spill = encode(message, fds)
        try:
            while True:
                if not self._open:
                    raise BrokenPipeError("channel is closed")
                try:
                    send_packet(self._socket, packet, all_fds)
                except BlockingIOError:
                    await self._wait_writable()
                else:
                    return
        finally:
            if spill is not None:
                spill.close()

    async def _wait_writable(self) -> None:
        # A second waiter on the same descriptor would replace the first in add_writer: sleep instead, it is rare.
        await asyncio.sleep(0.002)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if not self._open:
                return
            try:
                packet, fds = receive_packet(self._socket)
                if packet:
                    message, fds = decode(packet, fds)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, ProtocolError):
                packet, fds = b"", []
            if not packet:
                for fd in fds:
                    fd.close()
                self.close()
                self._closed()
                return
            self._received(message, fds)

    def close(self) -> None:
        """Stop watching and close; a second call does nothing."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
