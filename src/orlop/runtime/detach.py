"""Detach keys: the sequence that ends an attachment without ending the container (docker attach --detach-keys)."""

from __future__ import annotations


class DetachKeys:
    """Watches a stream of input for the sequence; no I/O.

    Bytes that may be its beginning are held back until it is clear what they are, as Docker's escape proxy does.
    """

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what is to be passed on, and whether the sequence is complete (the rest of ``data`` is dropped)."""
        keys = self._keys
        if not keys or (self._held == 0 and keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[self._held]:
                self._held += 1
                if self._held == len(keys):
                    self._held = 0
                    return bytes(out), True
                continue
            out += keys[: self._held]
            self._held = 0
            if byte == keys[0]:
                self._held = 1
                if len(keys) == 1:
                    self._held = 0
                    return bytes(out), True
            else:
                out.append(byte)
        return bytes(out), False
