"""The user's SSH agents, for the time of a build: what steps say to them travels in frames of one connection each.

A frame is a channel (4 bytes), a length (4 bytes, big endian) and that many bytes; a length of 0 closes the channel.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading

from orlop.client.failure import ConnectionFailedError
from orlop.errors import OrlopError
from orlop.primitives.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.client.client import Client
    from orlop.client.connection import HijackedStream

_HEAD = struct.Struct(">II")
_PIECE = 1 << 16


class Agents:
    """Connects agents to a session, in a thread each, until it is closed."""

    def __init__(self, client: Client, session: str, sockets: Mapping[str, str]) -> None:
        self._forwards = [_Forward(client.builds.connect_agent(session, name), path) for name, path in sockets.items()]
        for forward in self._forwards:
            forward.start()

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_exception: object) -> None:
        for forward in self._forwards:
            forward.stop()


class _Forward(threading.Thread):
    def __init__(self, stream: HijackedStream, path: str) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._channels: dict[int, socket.socket] = {}
        self._buffer = bytearray()

    def stop(self) -> None:
        """End the thread and close everything."""
        with suppress(OSError):  # the engine was faster
            self._stream.socket.shutdown(socket.SHUT_RDWR)
        self.join()

    def run(self) -> None:
        """Serve until the connection ends."""
        self._selector.register(self._stream.socket, selectors.EVENT_READ, None)
        try:
            if self._stream.pending:
                self._take(self._stream.receive())
            while True:
                for key, _ in self._selector.select():
                    if key.data is None:
                        self._take(self._stream.receive(_PIECE))
                    else:
                        self._answer(key.data)
        except (OSError, OrlopError, EOFError):
            return
        finally:
            for channel in self._channels.values():
                channel.close()
            self._selector.close()
            self._stream.close()

    def _take(self, data: bytes) -> None:
        if not data:
            raise ConnectionFailedError("the engine closed the connection")
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            number, length = _HEAD.unpack_from(self._buffer)
            if len(self._buffer) < _HEAD.size + length:
                return
            data = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            if data:
                self._say(number, data)
            else:
                self._close(number)

    def _say(self, number: int, data: bytes) -> None:
        if number not in self._channels:
            agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                agent.connect(self._path)
            except OSError:
                agent.close()
                self._stream.send(_HEAD.pack(number, 0))
                return
            self._channels[number] = agent
            self._selector.register(agent, selectors.EVENT_READ, number)
        self._channels[number].sendall(data)

    def _answer(self, number: int) -> None:
        try:
            data = self._channels[number].recv(_PIECE)
        except OSError:
            data = b""
        self._stream.send(_HEAD.pack(number, len(data)) + data)
        if not data:
            self._close(number)

    def _close(self, number: int) -> None:
        channel = self._channels.pop(number, None)
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()
