"""HTTP/2 on a socket that a client gave away, for gRPC in either role (RFC 9113, through h2).

::

    POST /grpc     the client calls, the engine answers      Connection.begin(..., accept=...)
    POST /session  the engine calls, the client answers      Connection.begin(...)

What the peer sends is hostile. What its windows let it send is taken (windows.py), what is held beyond is counted, and
a call that there is no room for ends with RESOURCE_EXHAUSTED (holdings.py). Its frames are taken for
:data:`_TURN_SECONDS` at a time, then others are looked after. What it does not read waits with whoever sends it: calls
take turns, and one frame at most is under way. A peer that breaks the protocol, or begins calls faster than they end,
loses its connection and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
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
from hyperframe.frame import Frame

from orlop.api.grpc.holdings import CALL_COST, HEADER_COST, Account, Holding, Ledger, caller_of
from orlop.api.grpc.status import CallError, Code, trailers
from orlop.api.grpc.stream import Stream
from orlop.api.grpc.windows import STREAMS, WINDOW, Windows
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orlop.primitives.owned_fd import OwnedFd

    Headers = Sequence[tuple[str, str]]

_READ = 64 << 10
_PIECE = 16 << 10  # bytes that are taken at once: a thousand frames, when each says nothing
# One client may build a hundred services at once, each with calls that last as long as its build: were there no room
# for the short ones between, none would end.
_MOST_STREAMS = 1000
_ANSWERS_LIMIT = 512 << 10
_CHUNK = 64 << 10  # bytes of one frame, however long a peer lets them be
# As long as a call goes on, its headers are kept: a thousand objects of ours for each of these.
_REQUEST_HEADERS_LIMIT = 16 << 10
_ANSWER_HEADERS_LIMIT = 64 << 10
_TABLE_LIMIT = 4096  # of what is remembered of headers that were sent, through which each one is looked for
_TURN_SECONDS = 0.005  # for which nobody else is looked after
_MOST_SETTINGS = 100  # frames: each is applied to all calls; Go's clients send one, and ten while windows grow
_LINGER = 1.0  # seconds in which a peer is to read the last that is said
# h2 writes every frame out, all bytes of it, for a log that nobody reads.
setattr(Frame, "__repr__", object.__repr__)  # noqa: B010 - mypy wants no method assigned

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
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        accept: Callable[[Stream], None] | None,
        account: Account,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._accept = accept
        self.account = account
        self._protocol = H2Connection(H2Configuration(client_side=accept is None, header_encoding=None))
        limit = _ANSWER_HEADERS_LIMIT if accept is None else _REQUEST_HEADERS_LIMIT
        self._protocol.decoder.max_header_list_size = limit
        # Not by update(), after which they would hold only when the peer has said that it knows them.
        self._protocol.local_settings = Settings(
            client=accept is None,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW // STREAMS,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: limit,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self._windows = Windows(account, self._protocol)
        self._streams: dict[int, Stream] = {}
        self._changed = asyncio.Event()
        self._settings = 0  # frames of the peer's
        self._began = 0.0  # when the peer's turn did
        self._turn = asyncio.Lock()
        self.gone = asyncio.Event()

    @classmethod
    async def begin(
        cls,
        fd: OwnedFd,
        accept: Callable[[Stream], None] | None = None,
        *,
        ledger: Ledger | None = None,
        caller: str = "",
    ) -> Self:
        """Begin to speak; :meth:`run` must follow.

        Args:
            fd: a stream socket, which is taken over.
            accept: is given each call of the peer's, which makes this the server.
            ledger: of what all connections hold; None for one that is this connection's own.
            caller: whose connection it is; empty for whoever is at the other end.

        Raises:
            CallError: there is no room for it, which the peer is told.
        """
        sock = socket.socket(fileno=fd.release())
        sock.setblocking(False)
        account = Account(ledger or Ledger(), caller or caller_of(sock))
        reader, writer = await asyncio.open_connection(sock=sock, limit=_READ // 2)
        setattr(writer.transport, "max_size", _READ)  # noqa: B010 - asyncio's own, which mypy does not know
        connection = cls(reader, writer, accept, account)
        connection._protocol.initiate_connection()
        try:
            connection._windows.open()
        except CallError as error:
            told = f"too many connections: {error}".encode()
            connection._protocol.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, told)
            connection._write()
            connection.close()
            raise
        connection._write()
        return connection

    async def run(self, preface: bytes) -> None:
        """Take what the peer sends, until it leaves or says what is no HTTP/2.

        Args:
            preface: what it sent already.
        """
        try:
            with contextlib.suppress(ConnectionError):
                await self._take_in(preface)
                while not self.gone.is_set() and (data := await self._reader.read(_READ)):
                    await self._take_in(data)
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

    async def _take_in(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.gone.is_set():
            self._receive(view[:_PIECE])
            view = view[_PIECE:]
            # Nothing waits for the peer to read here: it may wait for us. Who only asks is let go.
            if self._writer.transport.get_write_buffer_size() > _ANSWERS_LIMIT:
                self._writer.transport.abort()
            await self.give_way()

    async def give_way(self) -> None:
        """Have others looked after, if this peer was for long enough."""
        if time.monotonic() - self._began > _TURN_SECONDS:
            await asyncio.sleep(0)
            self._began = time.monotonic()

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
        self._windows.let_go()
        self._writer.close()

    def abort(self) -> None:
        """End the connection with a peer that may not even read; :meth:`run` then ends."""
        self._writer.transport.abort()

    async def open(self, headers: Headers) -> Stream:
        """Begin a call. Raises CallError: the peer is gone, or too much is held of it."""
        holding = Holding(self.account)
        holding.add(CALL_COST)
        try:
            stream = await self._open(headers, holding)
        except BaseException:
            holding.let_go()
            raise
        return stream

    async def _open(self, headers: Headers, holding: Holding) -> Stream:
        while True:
            async with self._turn:
                await self._drain()
                try:
                    if self._settings:  # else how many calls may go on at once is not known yet
                        number = self._protocol.get_next_available_stream_id()
                        self._protocol.send_headers(number, headers)
                        stream = self._streams[number] = Stream(self, number, {}, holding)
                        self._write()
                        return stream
                except TooManyStreamsError:
                    pass
                except H2Error as error:
                    raise CallError(Code.UNAVAILABLE, f"the call cannot begin: {error}") from None
            await self._changed.wait()  # for windows or settings

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send bytes of a call, as the peer has room. Raises CallError: the call is over."""
        view = memoryview(data)
        while view:
            async with self._turn:
                await self._drain()
                stream.check()
                try:
                    window = self._protocol.local_flow_control_window(stream.number)
                    room = min(window, self._protocol.max_outbound_frame_size, _CHUNK)
                    if room > 0:
                        self._protocol.send_data(stream.number, bytes(view[:room]))
                except H2Error:
                    raise CallError(Code.UNAVAILABLE, "the call is over") from None
                self._write()
            if room > 0:
                view = view[room:]
            else:
                await self._changed.wait()  # for windows or settings

    async def send_headers(self, stream: Stream, headers: Headers, *, last: bool = False) -> None:
        """Send headers or trailers of a call. Raises CallError: the call is over."""
        async with self._turn:
            await self._drain()
            stream.check()
            try:
                self._protocol.send_headers(stream.number, headers, end_stream=last)
            except H2Error:
                raise CallError(Code.UNAVAILABLE, "the call is over") from None
            self._write()

    def end(self, stream: Stream) -> None:
        """Say that no more of a call comes from here; nothing if the peer ended it."""
        with contextlib.suppress(H2Error):
            self._protocol.end_stream(stream.number)
            self._write()
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
            self._windows.acknowledge(length, stream.number)
            self._write()

    def _write(self) -> None:
        data = self._protocol.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def _drain(self) -> None:
        """Wait until the peer has read what was sent. Raises CallError: it is gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            raise CallError(Code.UNAVAILABLE, "the connection is closed") from None
        if self.gone.is_set():
            raise CallError(Code.UNAVAILABLE, "the connection is closed")

    def _announce_change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _receive(self, data: memoryview) -> None:
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
            if isinstance(event, RemoteSettingsChanged):
                self._take_settings()
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

    def _take_settings(self) -> None:
        self._settings += 1
        if self._settings > _MOST_SETTINGS:
            self.refuse()
        encoder = self._protocol.encoder
        size = encoder.header_table_size
        if size > _TABLE_LIMIT:  # the same size again would be no change to tell of
            encoder.header_table_size = _TABLE_LIMIT
        if encoder.table_size_changes:  # of which the smallest counts, and the last (RFC 7541, 4.2)
            encoder.table_size_changes = [min(encoder.table_size_changes), encoder.header_table_size]

    def _end_call(self, stream: Stream, event: StreamEnded | StreamReset) -> None:
        if isinstance(event, StreamReset):
            code = _RESETS.get(int(event.error_code or 0), Code.UNKNOWN)
            stream.fail(CallError(code, f"the call was reset: {event.error_code}"))
        else:
            stream.finish()

    def _begin_call(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        headers, holding = event.headers or (), Holding(self.account)
        try:
            holding.add(CALL_COST + sum(HEADER_COST + len(name) + len(value) for name, value in headers))
        except CallError as error:
            self._protocol.send_headers(number, [*_OPENING, *trailers(error)], end_stream=True)
            self._protocol.reset_stream(number, ErrorCodes.NO_ERROR)
            return
        stream = self._streams[number] = Stream(self, number, _headers(headers), holding, opening=_OPENING)
        if self._accept is not None:
            self._accept(stream)

    def _take_data(self, stream: Stream, data: bytes, length: int) -> None:
        try:
            stream.take(data, length)
        except InvalidParameterError as error:
            stream.fail(CallError(Code.RESOURCE_EXHAUSTED, str(error)))
            self.reset(stream, ErrorCodes.CANCEL)
            stream.close()


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(bytes(name).decode("latin-1"), []).append(bytes(value).decode("latin-1"))
    return found
