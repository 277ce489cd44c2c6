"""Which address belongs to whom.

The lowest free address is given out. The rows of ``endpoint`` are the truth that survives a restart; an
:class:`AddressSpace` is their index in memory, filled from them at start.
"""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, InvalidParameterError, SystemFailureError
from orlop.network.networks import AUX_GATEWAY, AUX_GATEWAY6, OPTION_INHIBIT_IPV4, reserved_ends
from orlop.network.sandbox import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.kernel.rtnetlink import IpInterface
    from orlop.network.networks import IpAddress, IpNetwork, Network
    from orlop.network.options import AddressPool
    from orlop.network.sandbox import EndpointWish


class AddressSpace:
    """The addresses of one subnet; its reserved ends, gateway and auxiliary addresses are never given out.

    Attributes:
        gateway: what leads out of it, "" for nothing.
    """

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
        self.gateway = "" if gateway is None else str(gateway)
        span = ip_range or subnet
        self._first = int(span.network_address)
        self._last = int(span.broadcast_address)
        self._taken = {*map(int, reserved_ends(subnet)), *map(int, auxiliary)}
        if gateway is not None:
            self._taken.add(int(gateway))
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
    """Gives out the addresses of a network: one of each IP version that it has, from the first subnet with room."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._spaces: dict[int, list[AddressSpace]] = {}
        self._owners: dict[IpAddress, str] = {}  # address -> endpoint id
        for pool in network.pools:
            space = AddressSpace(
                ipaddress.ip_network(pool.subnet),
                gateway=ipaddress.ip_address(pool.gateway) if pool.gateway else None,
                ip_range=ipaddress.ip_network(pool.ip_range) if pool.ip_range else None,
                auxiliary=[ipaddress.ip_address(text) for text in pool.auxiliary.values()],
                name=f"{network.name} ({network.id})",
            )
            self._spaces.setdefault(space.subnet.version, []).append(space)

    def in_use(self, version: int = 4) -> int:
        """How many addresses of an IP version are given out."""
        return sum(space.in_use for space in self._spaces.get(version, ()))

    def take(self, endpoint_id: str, wish: EndpointWish) -> Endpoint:
        """Return an endpoint with the addresses that were wished for, or the lowest free ones.

        Raises:
            InvalidParameterError: the address is none of this network's.
            ForbiddenError: it is taken.
            SystemFailureError: there is no free one.
        """
        network = self._network
        taken: dict[int, tuple[AddressSpace, IpAddress]] = {}
        try:
            for version, text in ((4, wish.address), (6, wish.address6)):
                if text or version in self._spaces:
                    taken[version] = self._choose(version, text)
            mac = parse_mac(wish.mac) if wish.mac else mac_of(taken[4 if 4 in taken else 6][1])
        except BaseException:
            for space, address in taken.values():
                space.release(address)
            raise
        self._owners.update({address: endpoint_id for _, address in taken.values()})
        endpoint = Endpoint(
            id=endpoint_id,
            network_id=network.id,
            network_name=network.name,
            mac=show_mac(mac),
            names=wish.names if network.user_defined else (),
            links=wish.links,
            priority=wish.priority,
            options=dict(wish.options),
            link_local=wish.link_local,
            driver=network.driver,
            router=network.flag(OPTION_INHIBIT_IPV4, default="false") or bool(self._way_out(AUX_GATEWAY)),
        )
        if 4 in taken:
            space, address = taken[4]
            length, gateway = space.subnet.prefixlen, self._way_out(AUX_GATEWAY) or space.gateway
            endpoint = replace(endpoint, address=str(address), prefix_length=length, gateway=gateway)
        if 6 in taken:
            space, address = taken[6]
            length, gateway = space.subnet.prefixlen, self._way_out(AUX_GATEWAY6) or space.gateway
            endpoint = replace(endpoint, address6=str(address), prefix_length6=length, gateway6=gateway)
        return endpoint

    def _way_out(self, name: str) -> str:
        text = self._network.auxiliary.get(name, "") if self._network.driver == "bridge" else ""
        return text if (":" in text) == (name == AUX_GATEWAY6) else ""

    def _choose(self, version: int, text: str) -> tuple[AddressSpace, IpAddress]:
        spaces = self._spaces.get(version, [])
        if text:
            address = _parse_address(text, version) if spaces else None
            space = next((space for space in spaces if address in space.subnet), None)
            if address is None or space is None:
                raise InvalidParameterError(f"no configured subnet contains IP address {text}")
            space.claim(address)
            return space, address
        for space in spaces[:-1]:
            with contextlib.suppress(SystemFailureError):  # it is full
                return space, space.allocate()
        return spaces[-1], spaces[-1].allocate()

    def claim(self, endpoint: Endpoint) -> None:
        """Take an endpoint's addresses. Raises InvalidParameterError, ForbiddenError."""
        for address in _addresses(endpoint):
            space = self._space_of(address)
            if space is not None:
                space.claim(address)
                self._owners[address] = endpoint.id

    def release(self, endpoint: Endpoint) -> None:
        """Give an endpoint's addresses back; what another has by now is left to it."""
        for address in _addresses(endpoint):
            if self._owners.get(address) == endpoint.id:
                del self._owners[address]
                space = self._space_of(address)
                if space is not None:
                    space.release(address)

    def _space_of(self, address: IpAddress) -> AddressSpace | None:
        return next((space for space in self._spaces.get(address.version, ()) if address in space.subnet), None)


def interfaces(endpoint: Endpoint) -> list[IpInterface]:
    """Return an endpoint's addresses with their prefix lengths."""
    found: list[IpInterface] = []
    if endpoint.address:
        found.append(ipaddress.IPv4Interface(f"{endpoint.address}/{endpoint.prefix_length}"))
    if endpoint.address6:
        found.append(ipaddress.IPv6Interface(f"{endpoint.address6}/{endpoint.prefix_length6}"))
    local = (ipaddress.ip_interface(f"{text}/{64 if ':' in text else 16}") for text in endpoint.link_local)
    return [*found, *local]


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
