"""How much a peer may send that nobody has asked for yet: the windows of a connection and its calls (RFC 9113, 6.9).

Small at first, since most connections carry little; twice as wide, up to a limit, each time that a peer has used all of
one, if there is room. They are counted whole as long as the connection is there, whatever is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from h2.settings import SettingCodes

from orlop.api.grpc.holdings import CONNECTION_COST, Holding

if TYPE_CHECKING:
    from h2.connection import H2Connection

    from orlop.api.grpc.holdings import Account

WINDOW, MOST_WINDOW = 256 << 10, 4 << 20  # of a connection
STREAMS = 4  # that nobody receives from, and others go on
_GROWING_ROOM = 8  # times as much room as a window grows by is left for messages
_FIRST = 65_535  # of a connection, until it is opened further


class Windows:
    """Owns the windows of one connection that its peer sends in, and what is counted of the connection itself."""

    def __init__(self, account: Account, protocol: H2Connection) -> None:
        self._account = account
        self._protocol = protocol
        self._holding = Holding(account)
        self._size = WINDOW
        self._taken = 0  # bytes since it grew

    def open(self) -> None:
        """Open them for the first time. Raises CallError: there is no room for one connection more."""
        self._holding.add(CONNECTION_COST + WINDOW)
        self._protocol.increment_flow_control_window(WINDOW - _FIRST)

    def acknowledge(self, length: int, number: int) -> None:
        """Open those of a call and the connection again by what was taken in. Raises H2Error."""
        self._taken += length
        if self._taken >= self._size:
            self._grow()
        self._protocol.acknowledge_received_data(length, number)

    def _grow(self) -> None:
        self._taken = 0
        if self._size < MOST_WINDOW and self._account.room >= _GROWING_ROOM * self._size and self._holding.size:
            self._holding.add(self._size)
            self._protocol.increment_flow_control_window(self._size)
            self._size *= 2
            self._protocol.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self._size // STREAMS})

    def let_go(self) -> None:
        """Count nothing any more: the connection is closed."""
        self._holding.let_go()
