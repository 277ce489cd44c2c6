"""HTTP/2 on a socket that a client gave away, for gRPC in either role (RFC 9113, through h2).

::

    POST /grpc     the client calls, the engine answers      Connection.begin(..., accept=...)
    POST /session  the engine calls, the client answers      Connection.begin(...)

What the peer sends is hostile. Of each call at most a window and one message wait here; all messages that are not whole
together have :data:`_PARTIAL_LIMIT` bytes; headers are bounded by h2. A peer that breaks the protocol, or begins calls
faster than they end, loses its connection and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, TooManyStreamsError
from h2.settings import SettingCodes, Settings

from orlop.api.grpc.status import CallError, Code
from orlop.api.grpc.stream import Stream
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orlop.primitives.owned_fd import OwnedFd

    Headers = Sequence[tuple[str, str]]

_READ = 256 << 10
_STREAM_WINDOW = 1 << 20
_CONNECTION_WINDOW = 4 << 20
_FIRST_WINDOW = 65_535  # of a connection, until it is opened further (RFC 9113, 6.9.2)
_PARTIAL_LIMIT = 64 << 20
# One client may build a hundred services at once, each with calls that last as long as its build: were there no room
# for the short ones between, none would end.
_MOST_STREAMS = 1000
_LARGE = 64 << 10  # bytes of a message that is not whole, from which all of them are counted
_ANSWERS_LIMIT = 4 << 20
_HEADERS_LIMIT = 64 << 10
_LINGER = 1.0  # seconds in which a peer is to read the last that is said
_OPENING = ((":status", "200"), ("content-type", "application/grpc"))
_RESETS = {
    int(ErrorCodes.REFUSED_STREAM): Code.UNAVAILABLE,
    int(ErrorCodes.CANCEL): Code.CANCELLED,
    int(ErrorCodes.ENHANCE_YOUR_CALM): Code.RESOURCE_EXHAUSTED,
    int(ErrorCodes.INADEQUATE_SECURITY): Code.PERMISSION_DENIED,
}


class Connection:
    """Owns the socket, from :meth:`begin` to the end of :meth:`run`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, accept: Callable[[Stream], None] | None
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._accept = accept
        self._protocol = H2Connection(H2Configuration(client_side=accept is None, header_encoding=None))
        # Not by update(), after which they would hold only when the peer has said that it knows them.
        self._protocol.local_settings = Settings(
            client=accept is None,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADERS_LIMIT,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self._streams: dict[int, Stream] = {}
        self._changed = asyncio.Event()
        self._greeted = False
        self.gone = asyncio.Event()

    @classmethod
    async def begin(cls, fd: OwnedFd, accept: Callable[[Stream], None] | None = None) -> Self:
        """Begin to speak; :meth:`run` must follow.

        Args:
            fd: a stream socket, which is taken over.
            accept: is given each call of the peer's, which makes this the server.
        """
        sock = socket.socket(fileno=fd.release())
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        connection = cls(reader, writer, accept)
        connection._protocol.initiate_connection()
        connection._protocol.increment_flow_control_window(_CONNECTION_WINDOW - _FIRST_WINDOW)
        connection._write()
        return connection

    async def run(self, preface: bytes) -> None:
        """Take what the peer sends, until it leaves or says what is no HTTP/2.

        Args:
            preface: what it sent already.
        """
        try:
            with contextlib.suppress(ConnectionError):
                self._receive(preface)
                while not self.gone.is_set() and (data := await self._reader.read(_READ)):
                    self._receive(data)
                    # Nothing waits for the peer to read here: it may wait for us. Who only asks is let go.
                    if self._writer.transport.get_write_buffer_size() > _ANSWERS_LIMIT:
                        self._writer.transport.abort()
                    await asyncio.sleep(0)  # calls that were begun and reset at once end before there are more
        finally:
            self.close()
            closed = False
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER):
                        with contextlib.suppress(ConnectionError):
                            await self._writer.wait_closed()
                        closed = True
            finally:
                if not closed:  # asyncio does not stand a transport that is aborted when it has closed
                    self._writer.transport.abort()

    def refuse(self) -> None:
        """End the connection with a peer that wants too much."""
        with contextlib.suppress(H2Error):
            self._protocol.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        self.gone.set()

    def close(self) -> None:
        """End the connection and all its calls."""
        self.gone.set()
        self._announce_change()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(CallError(Code.UNAVAILABLE, "the connection is closed"))
        self._writer.close()

    async def open(self, headers: Headers) -> Stream:
        """Begin a call. Raises CallError: the peer is gone."""
        while True:
            self._check_here()
            if not self._greeted:  # how many calls may go on at once is not known yet
                await self._change()
                continue
            try:
                number = self._protocol.get_next_available_stream_id()
                self._protocol.send_headers(number, headers)
            except TooManyStreamsError:
                await self._change()
                continue
            except H2Error as error:
                raise CallError(Code.UNAVAILABLE, f"the call cannot begin: {error}") from None
            stream = self._streams[number] = Stream(self, number, {})
            await self._flush()
            return stream

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send bytes of a call, as the peer has room. Raises CallError: the call is over."""
        view = memoryview(data)
        while view:
            stream.check()
            self._check_here()
            try:
                room = min(
                    self._protocol.local_flow_control_window(stream.number), self._protocol.max_outbound_frame_size
                )
                if room > 0:
                    self._protocol.send_data(stream.number, bytes(view[:room]))
            except H2Error:
                raise CallError(Code.UNAVAILABLE, "the call is over") from None
            if room <= 0:
                await self._change()
                continue
            view = view[room:]
            await self._flush()

    async def send_headers(self, stream: Stream, headers: Headers, *, last: bool = False) -> None:
        """Send headers or trailers of a call. Raises CallError: the call is over."""
        stream.check()
        self._check_here()
        try:
            self._protocol.send_headers(stream.number, headers, end_stream=last)
        except H2Error:
            raise CallError(Code.UNAVAILABLE, "the call is over") from None
        await self._flush()

    async def end(self, stream: Stream) -> None:
        """Say that no more of a call comes from here; nothing if the peer ended it."""
        with contextlib.suppress(H2Error):
            self._protocol.end_stream(stream.number)
            await self._flush()
        self._announce_change()

    def reset(self, stream: Stream, code: ErrorCodes) -> None:
        """End a call at once."""
        with contextlib.suppress(H2Error):
            self._protocol.reset_stream(stream.number, code)
            self._write()
        self._announce_change()

    def forget(self, stream: Stream) -> None:
        """Have no more to do with a call."""
        self._streams.pop(stream.number, None)

    def acknowledge(self, stream: Stream, length: int) -> None:
        """Open the peer's window again by what was taken in."""
        with contextlib.suppress(H2Error):
            self._protocol.acknowledge_received_data(length, stream.number)
            self._write()

    def _check_here(self) -> None:
        if self.gone.is_set():
            raise CallError(Code.UNAVAILABLE, "the connection is closed")

    def _write(self) -> None:
        data = self._protocol.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def _flush(self) -> None:
        self._write()
        try:
            await self._writer.drain()
        except ConnectionError:
            raise CallError(Code.UNAVAILABLE, "the connection is closed") from None

    async def _change(self) -> None:
        """Wait until windows or settings changed."""
        await self._changed.wait()

    def _announce_change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _receive(self, data: bytes) -> None:
        try:
            events = self._protocol.receive_data(data)
            for event in events:
                self._take(event)
        except H2Error:
            self.gone.set()  # and tell why
        self._write()

    def _take(self, event: Event) -> None:
        number = getattr(event, "stream_id", None) or 0
        if isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
            self._greeted = self._greeted or isinstance(event, RemoteSettingsChanged)
            self._announce_change()
        elif isinstance(event, ConnectionTerminated):
            if self._accept is not None or event.error_code:
                self.gone.set()
        elif isinstance(event, RequestReceived):
            self._begin_call(event)
        elif isinstance(event, (StreamEnded, StreamReset)):
            self._announce_change()  # another call may begin
            if (stream := self._streams.get(number)) is not None:
                self._end_call(stream, event)
        elif (stream := self._streams.get(number)) is None:
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self._protocol.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, DataReceived):
            self._take_data(stream, event.data or b"", event.flow_controlled_length or 0)
        elif isinstance(event, (ResponseReceived, TrailersReceived)):
            headers = {name: values[0] for name, values in _headers(event.headers or ()).items()}
            if isinstance(event, ResponseReceived) and headers.get(":status") != "200":
                stream.fail(CallError(Code.UNAVAILABLE, f"unexpected answer of HTTP: {headers.get(':status')}"))
            elif "grpc-status" in headers:
                stream.take_trailers(headers)

    def _end_call(self, stream: Stream, event: StreamEnded | StreamReset) -> None:
        if isinstance(event, StreamReset):
            code = _RESETS.get(int(event.error_code or 0), Code.UNKNOWN)
            stream.fail(CallError(code, f"the call was reset: {event.error_code}"))
        else:
            stream.finish()

    def _begin_call(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        stream = Stream(self, number, _headers(event.headers or ()), opening=_OPENING)
        self._streams[number] = stream
        if self._accept is not None:
            self._accept(stream)

    def _take_data(self, stream: Stream, data: bytes, length: int) -> None:
        try:
            stream.take(data, length)
        except InvalidParameterError as error:
            stream.fail(CallError(Code.RESOURCE_EXHAUSTED, str(error)))
            self.reset(stream, ErrorCodes.CANCEL)
            self.forget(stream)
        if stream.held > _LARGE and sum(one.held for one in self._streams.values()) > _PARTIAL_LIMIT:
            self.refuse()


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(bytes(name).decode("latin-1"), []).append(bytes(value).decode("latin-1"))
    return found
