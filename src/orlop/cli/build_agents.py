"""The user's SSH agents and keys, for the time of a build: what steps say travels in frames of one connection each.

Steps may have keys listed and things signed, and nothing else (``ssh_agent``). A frame is a channel (4 bytes), a length
(4 bytes, big endian) and that many bytes; a length of 0 closes the channel.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading

from orlop.cli.ssh_agent import KeyAgent, RequestReader, permitted, text
from orlop.client.failure import ConnectionFailedError
from orlop.errors import InvalidParameterError, OrlopError
from orlop.primitives.scope import suppress
from orlop.spec.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.cli.ssh_agent import SigningKey
    from orlop.client.client import Client
    from orlop.client.connection import HijackedStream

_HEAD = struct.Struct(">II")
_PIECE = 1 << 16


@dataclass(frozen=True)
class AgentSource:
    """Who answers: the agent that listens at ``socket``, or, without one, these keys."""

    socket: str = ""
    keys: Sequence[SigningKey] = ()


class Agents:
    """Connects agents to a session, in a thread each, until it is closed."""

    def __init__(self, client: Client, session: str, sources: Mapping[str, AgentSource]) -> None:
        self._forwards = [_Forward(client.builds.connect_agent(session, name), one) for name, one in sources.items()]
        for forward in self._forwards:
            forward.start()

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_exception: object) -> None:
        for forward in self._forwards:
            forward.stop()


@dataclass
class _Channel:
    """One connection of a step; ``agent`` is None where keys answer."""

    agent: socket.socket | None
    reader: RequestReader = field(default_factory=RequestReader)


class _Forward(threading.Thread):
    def __init__(self, stream: HijackedStream, source: AgentSource) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._source = source
        self._keys = KeyAgent(source.keys)
        self._selector = selectors.DefaultSelector()
        self._channels: dict[int, _Channel] = {}
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
                if channel.agent is not None:
                    channel.agent.close()
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
        try:
            channel = self._channels.get(number) or self._open(number)
            for request in channel.reader.receive(data):
                if channel.agent is None:
                    self._send(number, self._keys.answer(request))
                else:
                    channel.agent.sendall(text(permitted(request)))
        except (OSError, InvalidParameterError):
            self._send(number, b"")
            self._close(number)

    def _open(self, number: int) -> _Channel:
        """Begin what a step has begun. Raises OSError: the user's agent is gone."""
        agent = None
        if self._source.socket:
            agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                agent.connect(self._source.socket)
            except OSError:
                agent.close()
                raise
            self._selector.register(agent, selectors.EVENT_READ, number)
        self._channels[number] = _Channel(agent)
        return self._channels[number]

    def _answer(self, number: int) -> None:
        channel = self._channels.get(number)
        if channel is None or channel.agent is None:
            return  # closed by what was read just before
        try:
            data = channel.agent.recv(_PIECE)
        except OSError:
            data = b""
        self._send(number, data)
        if not data:
            self._close(number)

    def _send(self, number: int, data: bytes) -> None:
        """Send a frame; an empty one says that the channel is closed. The engine's end of it fails as a whole."""
        try:
            self._stream.send(_HEAD.pack(number, len(data)) + data)
        except OSError as error:
            raise ConnectionFailedError(str(error)) from None

    def _close(self, number: int) -> None:
        channel = self._channels.pop(number, None)
        if channel is not None and channel.agent is not None:
            self._selector.unregister(channel.agent)
            channel.agent.close()
