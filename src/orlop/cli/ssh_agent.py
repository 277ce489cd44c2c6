"""What the steps of a build may ask of a user's SSH agent, and an agent for keys that are in none; without I/O.

The protocol is that of draft-ietf-sshm-ssh-agent: requests and answers in turn, each a length (4 bytes, big endian), a
type (1 byte) and what belongs to it. Two requests are let through, as by BuildKit: the list of keys and a signature.
All others would change the user's agent (remove or lock its keys, load a library into it: CVE-2023-38408) and get the
answer "failure".
"""

from __future__ import annotations

from typing import Protocol

from orlop.errors import InvalidParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 256 << 10  # bytes of a request, as in OpenSSH
FAILURE, LIST, KEYS, SIGN, SIGNATURE, EXTENSION = 5, 11, 12, 13, 14, 27


class SigningKey(Protocol):
    """A private key; ``public`` is the other half as SSH has it on the wire (RFC 4253, 6.6)."""

    public: bytes

    def sign(self, data: bytes, flags: int) -> bytes:
        """Return a signature as SSH has it on the wire; the flags choose RSA's digest (RFC 8332)."""
        ...


class RequestReader:
    """Cuts the bytes of one connection into requests."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[bytes]:
        """Return the requests that are whole, each without its length. Raises InvalidParameterError: it is none."""
        self._buffer += data
        requests = []
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if not 1 <= length <= LONGEST:
                raise InvalidParameterError(f"invalid length of a request to an SSH agent: {length}")
            if len(self._buffer) < 4 + length:
                break
            requests.append(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
        return requests


def text(data: bytes) -> bytes:
    """Return a string of the protocol, or a whole message: its length and itself."""
    return len(data).to_bytes(4, "big") + data


# An agent answers what it does not know with "failure": so the answers keep their order.
_UNKNOWN = bytes([EXTENSION]) + text(b"refused@orlop")


def permitted(request: bytes) -> bytes:
    """Return what the user's agent is told in place of a request: that, or one that it will refuse."""
    return request if request[0] == SIGN or request == bytes([LIST]) else _UNKNOWN


class KeyAgent:
    """Answers requests with the keys that it was given."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._keys = {key.public: key for key in keys}

    def answer(self, request: bytes) -> bytes:
        """Return the answer to a request, with its length."""
        if request == bytes([LIST]):
            count = len(self._keys).to_bytes(4, "big")
            return text(bytes([KEYS]) + count + b"".join(text(public) + text(b"") for public in self._keys))
        if request[0] == SIGN:
            try:
                public, rest = _string(request[1:])
                data, flags = _string(rest)
            except InvalidParameterError:
                return text(bytes([FAILURE]))
            if public in self._keys and len(flags) == 4:
                signature = self._keys[public].sign(data, int.from_bytes(flags, "big"))
                return text(bytes([SIGNATURE]) + text(signature))
        return text(bytes([FAILURE]))


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Return the string that data begins with, and the rest."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < max(4, end):
        raise InvalidParameterError("a request to an SSH agent ends early")
    return data[4:end], data[end:]
