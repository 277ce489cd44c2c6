"""One connection to an engine: send a request, read or stream the answer, or take the raw stream over."""

from __future__ import annotations

import _socket  # what ``socket`` wraps: 1 ms instead of 5

from orlop.client.failure import ConnectionFailedError
from orlop.client.http1 import Data, End, Head, ProtocolError, ResponseParser, Upgraded, encode_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orlop.client.address import Address

_CHUNK = 65536


def open_socket(address: Address, timeout: float | None = None) -> _socket.socket:
    """Connect to an engine.

    Raises:
        ConnectionFailedError: in Docker's words.
    """
    try:
        if address.path is None:
            import socket

            if address.tls is not None:
                from orlop.client.tls import open_tls

                return open_tls(address, address.tls, timeout)
            return socket.create_connection((address.host, address.port), timeout)
        stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout)
            stream.connect(address.path)
        except BaseException:
            stream.close()
            raise
        return stream
    except PermissionError as error:
        raise ConnectionFailedError(
            f"permission denied while trying to connect to the Docker daemon socket at {address.text}: {error.strerror}"
        ) from None
    except OSError:
        raise ConnectionFailedError(
            f"Cannot connect to the Docker daemon at {address.text}. Is the docker daemon running?"
        ) from None


class HijackedStream:
    """A raw duplex stream after an upgrade; ``preface`` was received with the head."""

    def __init__(self, stream: _socket.socket, preface: bytes, *, content_type: str) -> None:
        self.socket = stream
        self.content_type = content_type
        self._preface = preface

    def fileno(self) -> int:
        """Return the descriptor to poll; ``pending`` first."""
        return self.socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether ``receive`` returns at once although the socket may not be readable."""
        return bool(self._preface)

    def receive(self, size: int = _CHUNK) -> bytes:
        """Return the next bytes, b"" at the end."""
        if self._preface:
            data, self._preface = self._preface[:size], self._preface[size:]
            return data
        try:
            return self.socket.recv(size)
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> None:
        """Send everything."""
        self.socket.sendall(data)

    def close_write(self) -> None:
        """Tell the container that its standard input ended; its output goes on."""
        try:
            self.socket.shutdown(_socket.SHUT_WR)
        except OSError:  # the other side went away first: there is nothing left to tell it
            return

    def close(self) -> None:
        """Close the stream."""
        self.socket.close()


class Response:
    """An answer whose body may still be on its way."""

    def __init__(self, connection: Connection, parser: ResponseParser, done: Callable[[Connection], None]) -> None:
        self._connection = connection
        self._parser = parser
        self._done = done
        self._ready: list[bytes] = []
        self._finished = False
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.upgrade: bytes | None = None

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the connection's descriptor, to poll for more of the body."""
        return self._connection.socket.fileno()

    def wait_head(self) -> None:
        """Receive until the head is there."""
        while not self.status:
            self._receive()

    def chunks(self) -> Iterator[bytes]:
        """Iterate over the body as it arrives.

        Raises:
            ConnectionFailedError: it was cut short.
        """
        while True:
            while self._ready:
                yield self._ready.pop(0)
            if self._finished:
                return
            self._receive()

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks())

    def close(self) -> None:
        """Stop reading; the connection is closed unless the body was read to its end."""
        if not self._finished:
            self._finished = True
            self._connection.close()

    def hijack(self) -> HijackedStream:
        """Take the stream over; only after a head with ``upgrade``."""
        self._finished = True
        kind = self.headers.get("content-type", "")
        return HijackedStream(self._connection.socket, self.upgrade or b"", content_type=kind)

    def _receive(self) -> None:
        try:
            data = self._connection.socket.recv(_CHUNK)
            events = self._parser.feed(data) if data else self._parser.end_of_stream()
        except (OSError, ProtocolError) as error:
            reason = getattr(self._connection.socket, "failure", "") or error
            self._connection.close()
            raise ConnectionFailedError(f"error during connect: {reason}") from None
        for event in events:
            if isinstance(event, Head):
                self.status, self.reason, self.headers = event.status, event.reason, event.headers
            elif isinstance(event, Data):
                self._ready.append(event.data)
            elif isinstance(event, Upgraded):
                self.upgrade = event.rest
            elif isinstance(event, End):
                self._finished = True
                if event.reusable:
                    self._done(self._connection)
                else:
                    self._connection.close()


class Connection:
    """A socket on which requests follow each other."""

    def __init__(self, stream: _socket.socket, host: str) -> None:
        self.socket = stream
        self._host = host

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def send(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
        raw: bool = False,
        done: Callable[[Connection], None],
    ) -> Response:
        """Send a request and wait for the head of its answer.

        Args:
            method: the HTTP method.
            target: path and query.
            headers: more headers.
            body: all of it, or pieces that are sent chunked.
            raw: ask for a hijacked stream.
            done: gets the connection back when the answer was read to its end.

        Raises:
            ConnectionFailedError: the engine went away; ``BrokenPipeError`` is turned into the answer that caused it.
        """
        lines = [("Host", self._host), ("User-Agent", "orlop"), *headers]
        if isinstance(body, bytes):
            lines.append(("Content-Length", str(len(body))))
        elif body is not None:
            lines.append(("Transfer-Encoding", "chunked"))
        elif method == "POST":
            lines.append(("Content-Length", "0"))
        if raw:
            lines += [("Connection", "Upgrade"), ("Upgrade", "tcp")]
        response = Response(self, ResponseParser(method, raw=raw), done)
        try:
            head = encode_head(method, target, lines)
            self.socket.sendall(head + body if isinstance(body, bytes) else head)
            if body is not None and not isinstance(body, bytes):
                self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the engine answered before it had read everything, for example with an error: read that answer
        except (OSError, ProtocolError) as error:
            self.close()
            raise ConnectionFailedError(f"error during connect: {error}") from None
        response.wait_head()
        return response

    def _send_chunks(self, body: Iterable[bytes]) -> None:
        for piece in body:
            if piece:
                self.socket.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.socket.sendall(b"0\r\n\r\n")
