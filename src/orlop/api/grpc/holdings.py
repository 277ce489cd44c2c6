"""What all connections hold in memory of what their peers sent, counted, so that it has a bound whatever comes when.

::

    Ledger        all connections                    TOTAL_LIMIT
     └ caller     the connections of one program     as much as is still free of that
        └ Account one connection                     CONNECTION_LIMIT
           └ Holding   a call, or a build that outlives it

Counted are connections with their windows (whoever sends within one is not refused), calls with their headers, messages
that are longer than what a window has room for, from their first bytes on, and requests until they are answered or
their build is forgotten. What does not fit is refused, and nothing else ends.

A caller may hold what is left for others: one alone has half of the limit, N of them one part of N + 1 each, and as
much is left for who comes next.
"""

from __future__ import annotations

import socket
import struct

from orlop.api.grpc.status import CallError, Code

TOTAL_LIMIT = 256 << 20
CONNECTION_LIMIT = 64 << 20
CONNECTION_COST = 512 << 10  # h2's state, what was read of the socket and what is about to be written to it
CALL_COST = 16 << 10  # a task, h2's state and ours
HEADER_COST = 256  # of one, beside its bytes

_CREDENTIALS = struct.Struct("3i")


class Ledger:
    """Knows what all hold.

    Args:
        limit: bytes that all connections may hold together.
    """

    def __init__(self, limit: int = TOTAL_LIMIT) -> None:
        self.limit = limit
        self.held = 0
        self._callers: dict[str, int] = {}

    def held_by(self, caller: str) -> int:
        """Return what all connections of one caller hold."""
        return self._callers.get(caller, 0)

    def count(self, caller: str, size: int) -> None:
        """Know that a caller holds so much more, or less."""
        self.held += size
        self._callers[caller] = self._callers.get(caller, 0) + size
        if not self._callers[caller]:
            del self._callers[caller]


class Account:
    """Knows what one connection holds, and what is left of it when it is closed.

    Attributes:
        caller: whose connection it is.
        held: bytes.
    """

    def __init__(self, ledger: Ledger, caller: str) -> None:
        self.ledger = ledger
        self.caller = caller
        self.held = 0

    @property
    def room(self) -> int:
        """Bytes that it may hold yet."""
        ledger = self.ledger
        free = ledger.limit - ledger.held
        return max(0, min(CONNECTION_LIMIT - self.held, free - ledger.held_by(self.caller)))

    def add(self, size: int) -> None:
        """Hold so much more. Raises CallError: there is no room."""
        if size > self.room:
            raise CallError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {self.room})")
        self.count(size)

    def count(self, size: int) -> None:
        """Hold so much more or less, room or not."""
        self.held += size
        self.ledger.count(self.caller, size)


class Holding:
    """Bytes that are counted until they are let go."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.size = 0

    def add(self, size: int) -> None:
        """Hold so much more. Raises CallError: there is no room."""
        self._account.add(size)
        self.size += size

    def let_go(self) -> None:
        """Hold nothing."""
        size, self.size = self.size, 0
        self._account.count(-size)


def caller_of(sock: socket.socket) -> str:
    """Return who is at the other end: a process of this machine, or an address.

    Clients by TLS are one: their connections come through the engine itself.
    """
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return f"process {_CREDENTIALS.unpack(credentials)[0]}"
    try:
        return f"address {sock.getpeername()[0]}"
    except OSError:
        return ""
