"""The multiplexed stream of attach, exec and logs, without input or output.

::

    +--------+-----------+----------------------+-----------
    | stream | 0 0 0     | length, big endian   | payload …
    +--------+-----------+----------------------+-----------
      1 byte   3 bytes     4 bytes                             stream: 0 stdin, 1 stdout, 2 stderr, 3 the engine's error
"""

from __future__ import annotations

from orlop.errors import SystemFailureError

STDOUT = 1
STDERR = 2
_SYSTEM_ERROR = 3
_HEADER = 8


class Demultiplexer:
    """Takes the bytes of the stream and returns the payloads, without waiting for a frame to be whole."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0
        self._stream = 0
        self._error = bytearray()

    @property
    def mid_frame(self) -> bool:
        """Whether the stream would be cut short if it ended here."""
        return bool(self._left or self._header)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return ``(stream, payload)`` pairs; stream is STDOUT or STDERR.

        Raises:
            SystemFailureError: the engine reported an error in the stream, or the stream is not one.
        """
        view = memoryview(data)
        out: list[tuple[int, bytes]] = []
        while view:
            if self._left:
                piece = bytes(view[: self._left])
                view = view[len(piece) :]
                self._left -= len(piece)
                if self._stream == _SYSTEM_ERROR:
                    self._error += piece
                    if not self._left:
                        raise SystemFailureError(f"error from daemon in stream: {self._error.decode(errors='replace')}")
                else:
                    out.append((STDERR if self._stream == STDERR else STDOUT, piece))
                continue
            missing = _HEADER - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) == _HEADER:
                self._stream = self._header[0]
                if self._stream > _SYSTEM_ERROR:
                    raise SystemFailureError(f"Unrecognized input header: {self._stream}")
                self._left = int.from_bytes(self._header[4:], "big")
                self._header.clear()
        return out
