"""Which address belongs to whom.

The lowest free address is given out. The rows of ``endpoint`` are the truth that survives a restart; an
:class:`AddressSpace` is their index in memory, filled from them at start.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, InvalidParameterError, SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.network.options import AddressPool


class AddressSpace:
    """The addresses of one network; network address, broadcast address and gateway are never given out."""

    def __init__(
        self,
        subnet: ipaddress.IPv4Network,
        *,
        gateway: ipaddress.IPv4Address,
        ip_range: ipaddress.IPv4Network | None = None,
        name: str = "",
    ) -> None:
        self._subnet = subnet
        self._name = name
        span = ip_range or subnet
        self._first = int(span.network_address)
        self._last = int(span.broadcast_address)
        self._taken = {int(gateway), int(subnet.network_address), int(subnet.broadcast_address)}
        self._reserved = frozenset(self._taken)
        self._lowest = self._first  # nothing below this is free

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The whole network."""
        return self._subnet

    @property
    def in_use(self) -> int:
        """How many addresses are given out."""
        return len(self._taken) - len(self._reserved)

    def allocate(self) -> ipaddress.IPv4Address:
        """Return the lowest free address, which is taken from now on.

        Raises:
            SystemFailureError: there is none, in Docker's words.
        """
        number = self._lowest
        while number in self._taken:
            number += 1
        self._lowest = number
        if number > self._last:
            raise SystemFailureError(f"no available IPv4 addresses on this network's address pools: {self._name}")
        self._taken.add(number)
        self._lowest = number + 1
        return ipaddress.IPv4Address(number)

    def claim(self, address: ipaddress.IPv4Address) -> None:
        """Take a chosen address.

        Raises:
            InvalidParameterError: it is not of this subnet.
            ForbiddenError: it is taken.
        """
        if address not in self._subnet:
            raise InvalidParameterError(f"no configured subnet contains IP address {address}")
        if int(address) in self._taken:
            raise ForbiddenError("Address already in use")
        self._taken.add(int(address))

    def release(self, address: ipaddress.IPv4Address) -> None:
        """Give an address back; one that is not taken is left alone."""
        number = int(address)
        if number in self._taken and number not in self._reserved:
            self._taken.discard(number)
            if self._first <= number:
                self._lowest = min(self._lowest, number)


def choose_subnet(pools: Sequence[AddressPool], occupied: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """Return the first subnet of the pools that overlaps none of the occupied ranges (routes, other networks).

    Raises:
        SystemFailureError: all overlap, in Docker's words.
    """
    ranges = sorted((int(net.network_address), int(net.broadcast_address)) for net in occupied if net.prefixlen)
    for pool in pools:
        base = ipaddress.IPv4Network(pool.base)
        size = 1 << (32 - pool.size)
        start, end = int(base.network_address), int(base.broadcast_address)
        while start + size - 1 <= end:
            # the furthest end of what overlaps this candidate; the next candidate lies beyond it
            blocking = max((high for low, high in ranges if low <= start + size - 1 and high >= start), default=-1)
            if blocking < 0:
                return ipaddress.IPv4Network((start, pool.size))
            start = (blocking // size + 1) * size
    raise SystemFailureError("all predefined address pools have been fully subnetted")


def mac_of(address: ipaddress.IPv4Address) -> bytes:
    """Return the hardware address that Docker derives from an IPv4 address: 02:42 and its four bytes."""
    return b"\x02\x42" + address.packed


def parse_mac(text: str) -> bytes:
    """Parse a unicast hardware address.

    Raises:
        InvalidParameterError: it is none.
    """
    parts = text.replace("-", ":").split(":")
    digits = "0123456789abcdefABCDEF"
    if len(parts) != 6 or any(len(part) != 2 or part[0] not in digits or part[1] not in digits for part in parts):
        raise InvalidParameterError(f"invalid mac address: {text}")
    packed = bytes(int(part, 16) for part in parts)
    if packed[0] & 1 or not any(packed):
        raise InvalidParameterError(f"invalid mac address: {text}")
    return packed


def show_mac(packed: bytes) -> str:
    """Return a hardware address as Docker writes it."""
    return packed.hex(":")
