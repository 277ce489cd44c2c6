"""Which address belongs to whom.

The lowest free address is given out. The rows of ``endpoint`` are the truth that survives a restart; an
:class:`AddressSpace` is their index in memory, filled from them at start.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, InvalidParameterError, SystemFailureError
from orlop.network.sandbox import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.kernel.rtnetlink import IpInterface
    from orlop.network.networks import IpAddress, IpNetwork, Network
    from orlop.network.options import AddressPool
    from orlop.network.sandbox import EndpointWish


class AddressSpace:
    """The addresses of one subnet; network address, broadcast address and what is reserved are never given out."""

    def __init__(
        self,
        subnet: IpNetwork,
        *,
        gateway: IpAddress | None,
        ip_range: IpNetwork | None = None,
        auxiliary: Iterable[IpAddress] = (),
        name: str = "",
    ) -> None:
        self._subnet = subnet
        self._name = name
        span = ip_range or subnet
        self._first = int(span.network_address)
        self._last = int(span.broadcast_address)
        self._taken = {int(subnet.network_address), *map(int, auxiliary)}
        if gateway is not None:
            self._taken.add(int(gateway))
        if subnet.version == 4:
            self._taken.add(int(subnet.broadcast_address))
        self._reserved = frozenset(self._taken)
        self._lowest = self._first  # nothing below this is free

    @property
    def subnet(self) -> IpNetwork:
        """The whole network."""
        return self._subnet

    @property
    def in_use(self) -> int:
        """How many addresses are given out."""
        return len(self._taken) - len(self._reserved)

    def allocate(self) -> IpAddress:
        """Return the lowest free address, which is taken from now on.

        Raises:
            SystemFailureError: there is none, in Docker's words.
        """
        number = self._lowest
        while number in self._taken:
            number += 1
        self._lowest = number
        if number > self._last:
            raise SystemFailureError(
                f"no available IPv{self._subnet.version} addresses on this network's address pools: {self._name}"
            )
        self._taken.add(number)
        self._lowest = number + 1
        return self._subnet[number - int(self._subnet.network_address)]

    def claim(self, address: IpAddress) -> None:
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

    def release(self, address: IpAddress) -> None:
        """Give an address back; one that is not taken is left alone."""
        number = int(address)
        if number in self._taken and number not in self._reserved:
            self._taken.discard(number)
            if self._first <= number:
                self._lowest = min(self._lowest, number)


class NetworkAddresses:
    """Gives out the addresses of a network: one of each IP version that it has."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._spaces: dict[int, AddressSpace] = {}
        self._owners: dict[IpAddress, str] = {}  # address -> endpoint id
        auxiliary = [ipaddress.ip_address(text) for text in network.auxiliary.values()]
        for version, subnet, gateway, ip_range in (
            (4, network.subnet, network.gateway, network.ip_range),
            (6, network.subnet6, network.gateway6, network.ip_range6),
        ):
            if subnet:
                self._spaces[version] = AddressSpace(
                    ipaddress.ip_network(subnet),
                    gateway=ipaddress.ip_address(gateway) if gateway else None,
                    ip_range=ipaddress.ip_network(ip_range) if ip_range else None,
                    auxiliary=[address for address in auxiliary if address.version == version],
                    name=f"{network.name} ({network.id})",
                )

    def in_use(self, version: int = 4) -> int:
        """How many addresses of an IP version are given out."""
        return self._spaces[version].in_use if version in self._spaces else 0

    def take(self, endpoint_id: str, wish: EndpointWish) -> Endpoint:
        """Return an endpoint with the addresses that were wished for, or the lowest free ones.

        Raises:
            InvalidParameterError: the address is none of this network's.
            ForbiddenError: it is taken.
            SystemFailureError: there is no free one.
        """
        network = self._network
        taken: dict[int, IpAddress] = {}
        try:
            for version, text in ((4, wish.address), (6, wish.address6)):
                space = self._spaces.get(version)
                if space is None and text:
                    raise InvalidParameterError(f"no configured subnet contains IP address {text}")
                if space is not None:
                    address = _parse_address(text, version) if text else space.allocate()
                    if text:
                        space.claim(address)
                    taken[version] = address
            mac = parse_mac(wish.mac) if wish.mac else mac_of(taken.get(4) or taken[6])
        except BaseException:
            for version, address in taken.items():
                self._spaces[version].release(address)
            raise
        self._owners.update(dict.fromkeys(taken.values(), endpoint_id))
        has6 = 6 in taken
        return Endpoint(
            id=endpoint_id,
            network_id=network.id,
            network_name=network.name,
            address=str(taken.get(4, "")),
            prefix_length=self._spaces[4].subnet.prefixlen if 4 in taken else 0,
            gateway=network.gateway if 4 in taken else "",
            mac=show_mac(mac),
            address6=str(taken.get(6, "")),
            prefix_length6=self._spaces[6].subnet.prefixlen if has6 else 0,
            gateway6=network.gateway6 if has6 else "",
            names=wish.names if network.user_defined else (),
            links=wish.links,
            priority=wish.priority,
            options=dict(wish.options),
            driver=network.driver,
        )

    def claim(self, endpoint: Endpoint) -> None:
        """Take an endpoint's addresses. Raises InvalidParameterError, ForbiddenError."""
        for address in _addresses(endpoint):
            if address.version in self._spaces:
                self._spaces[address.version].claim(address)
                self._owners[address] = endpoint.id

    def release(self, endpoint: Endpoint) -> None:
        """Give an endpoint's addresses back; what another has by now is left to it."""
        for address in _addresses(endpoint):
            if self._owners.get(address) == endpoint.id:
                del self._owners[address]
                self._spaces[address.version].release(address)


def interfaces(endpoint: Endpoint) -> list[IpInterface]:
    """Return an endpoint's addresses with their prefix lengths."""
    found: list[IpInterface] = []
    if endpoint.address:
        found.append(ipaddress.IPv4Interface(f"{endpoint.address}/{endpoint.prefix_length}"))
    if endpoint.address6:
        found.append(ipaddress.IPv6Interface(f"{endpoint.address6}/{endpoint.prefix_length6}"))
    return found


def _addresses(endpoint: Endpoint) -> list[IpAddress]:
    return [ipaddress.ip_address(text) for text in (endpoint.address, endpoint.address6) if text]


def _parse_address(text: str, version: int) -> IpAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameterError(f"invalid IPv{version} address: {text}") from None
    if address.version != version:
        raise InvalidParameterError(f"invalid IPv{version} address: {text}")
    return address


def choose_subnet(
    pools: Sequence[AddressPool], occupied: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the first subnet of the pools that overlaps none of the occupied ranges (routes, other networks).

    The pools are of one IP version.

    Raises:
        SystemFailureError: all overlap, in Docker's words.
    """
    by_version: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for net in occupied:
        if net.prefixlen:
            by_version[net.version].append((int(net.network_address), int(net.broadcast_address)))
    for pool in pools:
        base = ipaddress.ip_network(pool.base)
        ranges = by_version[base.version]
        size = 1 << (base.max_prefixlen - pool.size)
        start, end = int(base.network_address), int(base.broadcast_address)
        while start + size - 1 <= end:
            # the furthest end of what overlaps this candidate; the next candidate lies beyond it
            blocking = max((high for low, high in ranges if low <= start + size - 1 and high >= start), default=-1)
            if blocking < 0:
                return type(base)((start, pool.size))
            start = (blocking // size + 1) * size
    raise SystemFailureError("all predefined address pools have been fully subnetted")


def mac_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """Return the hardware address that Docker derives from an address: 02:42 and its last four bytes."""
    return b"\x02\x42" + address.packed[-4:]


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
