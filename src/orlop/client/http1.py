"""HTTP/1.1 as a client speaks it, without input or output: bytes in, events out.

::

    HEAD --head complete--> BODY_LENGTH | BODY_CHUNKED | BODY_UNTIL_CLOSE --> DONE
      +--101, or 200 without a length where a raw stream was asked for--> RAW (``rest``: what came after the head)

``http.client`` costs 29 ms of CPU to import and can neither give its socket away nor be tested byte by byte.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD_LIMIT = 65536
_LINE_LIMIT = 4096
_HEX = frozenset(b"0123456789abcdefABCDEF")


class ProtocolError(Exception):
    """The peer does not speak HTTP/1.1."""


class Head:
    """The status line and headers of a response; header names are lower case."""

    __slots__ = ("headers", "reason", "status")

    def __init__(self, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers


class Data:
    """A piece of the body, chunk framing removed."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class End:
    """The response is complete; another may follow on the connection when ``reusable``."""

    __slots__ = ("reusable",)

    def __init__(self, *, reusable: bool) -> None:
        self.reusable = reusable


class Upgraded:
    """The connection is a raw byte stream from here on; ``rest`` are its first bytes."""

    __slots__ = ("rest",)

    def __init__(self, rest: bytes) -> None:
        self.rest = rest


Event = Head | Data | End | Upgraded


def encode_head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the bytes of a request's head.

    Raises:
        ProtocolError: a part holds a line break or another control character, which would forge a header.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if any(character < " " or character == "\x7f" for line in lines for character in line) or " " in target:
        raise ProtocolError(f"control character in request: {target!r}")
    return "\r\n".join([*lines, "\r\n"]).encode("utf-8", "surrogateescape")


class ResponseParser:
    """Reads one response.

    Args:
        method: the request's method; a HEAD response has no body.
        raw: the request asked for a hijacked stream, so that a 200 without a length is one (Docker before 1.12, and
            clients that do not send ``Upgrade``).
    """

    def __init__(self, method: str, *, raw: bool = False) -> None:
        self._method = method
        self._raw = raw
        self._buffer = bytearray()
        self._state = "head"
        self._left = 0
        self._keep = True

    @property
    def done(self) -> bool:
        """Whether nothing more belongs to this response."""
        return self._state in ("done", "raw")

    def feed(self, data: bytes) -> list[Event]:
        """Take received bytes and return what they complete.

        Raises:
            ProtocolError: malformed head or chunk, or bytes after the end.
        """
        if self._state == "raw":
            return [Upgraded(data)] if data else []
        self._buffer += data
        events: list[Event] = []
        while self._step(events):
            pass
        if self._state == "done" and self._buffer and self._keep:
            raise ProtocolError("bytes after the end of the response")
        return events

    def end_of_stream(self) -> list[Event]:
        """Tell that the peer closed the connection.

        Raises:
            ProtocolError: the response was cut short.
        """
        if self._state == "until-close":
            self._state = "done"
            return [End(reusable=False)]
        if self.done:
            return []
        raise ProtocolError("unexpected EOF")

    def _step(self, events: list[Event]) -> bool:
        """Consume one element from the buffer; False when more bytes are needed or nothing is left to do."""
        if self._state == "head":
            return self._head(events)
        if self._state == "length":
            return self._take(events, after="finish")
        if self._state == "chunk-data":
            return self._take(events, after="chunk-end")
        if self._state in ("chunk-size", "chunk-end", "trailer"):
            return self._chunk_line()
        if self._state == "until-close":
            if self._buffer:
                events.append(Data(bytes(self._buffer)))
                self._buffer.clear()
            return False
        if self._state == "finish":
            self._state = "done"
            events.append(End(reusable=self._keep))
        return False

    def _take(self, events: list[Event], *, after: str) -> bool:
        piece = bytes(self._buffer[: self._left])
        if piece:
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            events.append(Data(piece))
        if self._left:
            return False
        self._state = after
        return True

    def _chunk_line(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0 or end > _LINE_LIMIT:
            if len(self._buffer) > _LINE_LIMIT:
                raise ProtocolError("chunk line too long")
            return False
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        if self._state == "chunk-size":
            size = line.partition(b";")[0].strip()
            if not size or len(size) > 15 or not _HEX.issuperset(size):
                raise ProtocolError(f"bad chunk size: {line!r}")
            self._left = int(size, 16)
            self._state = "chunk-data" if self._left else "trailer"
        elif self._state == "chunk-end":
            if line:
                raise ProtocolError("chunk longer than its size")
            self._state = "chunk-size"
        elif not line:
            self._state = "finish"
        return True

    def _head(self, events: list[Event]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise ProtocolError("response head too long")
            return False
        head = _parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        if 100 <= head.status < 200 and head.status != 101:
            return True
        events.append(head)
        self._frame(head, events)
        return True

    def _frame(self, head: Head, events: list[Event]) -> None:
        """Choose how the body is delimited (RFC 9112, 6.3)."""
        headers = head.headers
        self._keep = headers.get("connection", "").lower() != "close"
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        if head.status == 101 or (self._raw and head.status == 200 and not chunked and length is None):
            self._state = "raw"
            events.append(Upgraded(bytes(self._buffer)))
            self._buffer.clear()
        elif self._method == "HEAD" or head.status in (204, 304):
            self._state = "finish"
        elif chunked:
            self._state = "chunk-size"
        elif length is not None:
            if not (length.isascii() and length.isdigit()) or len(length) > 18:
                raise ProtocolError(f"bad content length: {length!r}")
            self._left = int(length)
            self._state = "length"
        else:
            self._state = "until-close"


def _parse_head(head: bytes) -> Head:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    code, _, reason = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not (code.isascii() and code.isdigit()):
        raise ProtocolError(f"not an HTTP/1.1 response: {status_line[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ProtocolError(f"bad header: {line[:80]!r}")
        headers[name.lower()] = value.strip()
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return Head(int(code), reason, headers)
