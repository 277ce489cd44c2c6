"""Who is called what on which network. Pure: filled by the network service, asked by resolvers."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.network.dns import message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address, IPv6Address

    from orlop.network.sandbox import Endpoint

TTL = 600  # seconds, as Docker's
_MOST_REMEMBERED = 256  # answers for one container
_LONGEST_REMEMBERED = 512  # bytes of a question
_REVERSE4, _REVERSE6 = ".in-addr.arpa", ".ip6.arpa"


@dataclass(slots=True)
class _Zone:
    name: str
    by_name: dict[str, dict[str, Endpoint]] = field(default_factory=dict)  # name -> endpoint id -> endpoint
    by_address: dict[str, tuple[str, str]] = field(default_factory=dict)  # address -> endpoint id, its first name


class Names:
    """The names of running containers, network by network: an alias is never known on another (threats.md G11).

    Attributes:
        generation: grows with every change, so that answers can be remembered until the next.
    """

    def __init__(self) -> None:
        self._zones: dict[str, _Zone] = {}
        self.generation = 0

    def add(self, endpoint: Endpoint) -> None:
        """Make an endpoint's names known."""
        self.generation += 1
        zone = self._zones.setdefault(endpoint.network_id, _Zone(endpoint.network_name))
        for name in endpoint.names:
            zone.by_name.setdefault(name.lower(), {})[endpoint.id] = endpoint
        for address in (endpoint.address, endpoint.address6):
            if address and endpoint.names:
                zone.by_address[address] = endpoint.id, endpoint.names[0]

    def remove(self, endpoint: Endpoint) -> None:
        """Forget them; what is not known is left alone."""
        self.generation += 1
        zone = self._zones.get(endpoint.network_id)
        if zone is None:
            return
        for name in endpoint.names:
            owners = zone.by_name.get(name.lower(), {})
            owners.pop(endpoint.id, None)
            if not owners:
                zone.by_name.pop(name.lower(), None)
        for address in (endpoint.address, endpoint.address6):
            if zone.by_address.get(address, ("",))[0] == endpoint.id:
                del zone.by_address[address]
        if not zone.by_name:
            del self._zones[endpoint.network_id]

    def endpoints(self, network_id: str, name: str) -> list[Endpoint]:
        """Return the endpoints of that name on a network; ``name.network`` is one as well."""
        zone = self._zones.get(network_id)
        if zone is None:
            return []
        found = zone.by_name.get(name)
        if found is None:
            found = zone.by_name.get(name.removesuffix(f".{zone.name.lower()}"), {})
        return list(found.values())

    def name_of(self, network_id: str, address: str) -> str:
        """Return the name of an address on a network, with the network's; "" for none."""
        zone = self._zones.get(network_id)
        _, name = zone.by_address.get(address, ("", "")) if zone is not None else ("", "")
        return f"{name}.{zone.name}" if zone is not None and name else ""


class View:
    """The names as one container sees them.

    Args:
        names: everybody's.
        networks: ids of the container's networks, the first one first.
        links: network id -> alias -> name: what only this container calls another.
    """

    def __init__(self, names: Names, networks: Iterable[str], links: Mapping[str, Mapping[str, str]]) -> None:
        self._names = names
        self._networks = tuple(networks)
        self._links = links
        self._remembered: dict[bytes, bytes] = {}  # question -> answer, both without their numbers
        self._generation = names.generation

    def recall(self, data: bytes) -> bytes | None:
        """Return the answer to a datagram that was answered before and no name has changed since; None for all others.

        Half of a question's cost is in reading it and writing the answer, and programs ask the same again and again.
        """
        if self._generation != self._names.generation:
            self._generation = self._names.generation
            self._remembered.clear()
        found = self._remembered.get(data[2:])
        return None if found is None else data[:2] + found

    def remember(self, data: bytes, answer: bytes) -> None:
        """Keep an answer over UDP, unless it is one of several addresses in turn."""
        if message.answer_count(answer) > 1 or len(data) > _LONGEST_REMEMBERED:
            return
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[data[2:]] = answer[2:]

    def answer(self, query: message.Query, *, tcp: bool) -> bytes | None:
        """Return the answer to a question that we know about, None for all others."""
        if query.klass != message.CLASS_IN:
            return None
        if query.kind == message.TYPE_PTR:
            return self._answer_pointer(query, tcp=tcp)
        if query.kind not in (message.TYPE_A, message.TYPE_AAAA):
            # the name exists, but not as an MX and the like: better said here than leaked upstream
            return message.build_answer(query, tcp=tcp) if self._find(query.name) else None
        found = self._find(query.name)
        if not found:
            return None
        wanted = 4 if query.kind == message.TYPE_A else 6
        addresses = self._addresses(found, wanted)
        random.shuffle(addresses)  # the next client takes another
        return message.build_answer(query, [message.address_record(a, TTL) for a in addresses], tcp=tcp)

    def _find(self, name: str) -> list[Endpoint]:
        for network in self._networks:
            links = self._links.get(network, {})
            found = self._names.endpoints(network, links.get(name, name).lower())
            if found:
                return found
        return []

    @staticmethod
    def _addresses(found: Iterable[Endpoint], version: int) -> list[IPv4Address | IPv6Address]:
        texts = (endpoint.address if version == 4 else endpoint.address6 for endpoint in found)
        return [ipaddress.ip_address(text) for text in texts if text]

    def _answer_pointer(self, query: message.Query, *, tcp: bool) -> bytes | None:
        address = _reverse_address(query.name)
        for network in self._networks if address else ():
            name = self._names.name_of(network, address)
            if name:
                return message.build_answer(query, [message.pointer_record(name, TTL)], tcp=tcp)
        return None


def _reverse_address(name: str) -> str:
    """Return the address that a reverse name stands for, "" when it is none."""
    try:
        if name.endswith(_REVERSE4):
            return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(_REVERSE4).split(".")))))
        if name.endswith(_REVERSE6):
            digits = name.removesuffix(_REVERSE6).split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return str(ipaddress.IPv6Address(int("".join(reversed(digits)), 16)))
    except ValueError:
        return ""
    return ""
