"""The user's terminal: its size, raw mode and back, the keys that detach."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_SPECIAL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def size_of(descriptor: int) -> tuple[int, int] | None:
    """Return height and width in characters, or None when it is no terminal or has no size."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (size.lines, size.columns) if size.lines and size.columns else None


class RawMode:
    """Puts a terminal into raw mode for the time of a ``with``; restores it whatever happens."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[object] | None = None

    def __enter__(self) -> RawMode:
        import termios
        import tty

        self._saved = termios.tcgetattr(self._descriptor)
        tty.setraw(self._descriptor, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import termios

        if self._saved is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type] # as saved


def parse_detach_keys(text: str) -> bytes:
    """Read "ctrl-p,ctrl-q" or "a,b" into the bytes that a raw terminal sends.

    Raises:
        ValueError: an unknown key.
    """
    out = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            out += key.encode()
            continue
        prefix, dash, letter = key.partition("-")
        if prefix.lower() != "ctrl" or not dash or len(letter) != 1:
            raise ValueError(f"Unknown character: '{key}'")
        if letter.isascii() and letter.isalpha():
            out.append(ord(letter.lower()) - ord("a") + 1)
        elif letter in _SPECIAL:
            out.append(_SPECIAL[letter])
        else:
            raise ValueError(f"Unknown character: '{key}'")
    return bytes(out)


class DetachScanner:
    """Watches typed bytes for the detach sequence; bytes of a sequence that did not finish are passed on."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to send; ``detached`` is set when the sequence was completed."""
        if not self._keys:
            return data
        out = bytearray()
        for index in range(len(data)):
            self._held += data[index : index + 1]
            while self._held and not self._keys.startswith(self._held):
                out += self._held[:1]
                self._held = self._held[1:]
            if self._held == self._keys:
                self.detached = True
                self._held = b""
                break
        return bytes(out)
