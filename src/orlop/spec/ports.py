"""Published ports as users write them (``-p``, ``-P``, HostConfig.PortBindings) and as the engine gives them out."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PROTOCOLS = ("tcp", "udp", "sctp")
_PORT = re.compile(r"[0-9]{1,5}")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class PortRequest:
    """A wish to publish one port of a container.

    Attributes:
        container_port: 1 to 65535.
        protocol: "tcp", "udp" or "sctp".
        host_ip: address to publish on; "" for the engine's default (all addresses).
        first: lowest host port that will do; 0: any free one.
        last: highest host port that will do.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    first: int = 0
    last: int = 0

    @property
    def key(self) -> str:
        """The container's side as Docker writes it, "80/tcp"."""
        return f"{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True, order=True)
class PortBinding:
    """A published port: ``host_ip:host_port`` of the host leads to ``container_port`` of the container."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int

    @property
    def key(self) -> str:
        """The container's side as Docker writes it, "80/tcp"."""
        return f"{self.container_port}/{self.protocol}"


def parse_port(text: str) -> tuple[int, str]:
    """Parse "80", "80/tcp" or "80/UDP" into its number and protocol.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() if "/" in text else "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameterError(f"invalid proto: {protocol}")
    first, last = _range(number, f"invalid containerPort: {number}")
    if first != last or first == 0:
        raise InvalidParameterError(f"invalid containerPort: {number}")
    return first, protocol


def parse_publish(text: str) -> list[PortRequest]:
    """Parse one value of ``-p``: ``[[ip:][host[-range]]:]container[-range][/protocol]``.

    A range of container ports needs a range of host ports of the same length, or none; a range of host ports for one
    container port means any free port of the range.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    address, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    host_ip, host, container = _split(address)
    if not container:
        raise InvalidParameterError(f"no port specified: {text}<empty>")
    if protocol not in PROTOCOLS:
        raise InvalidParameterError(f"invalid proto: {protocol}")
    host_ip = check_host_ip(host_ip)
    first, last = _range(container, f"invalid containerPort: {container}")
    if first == 0:
        raise InvalidParameterError(f"invalid containerPort: {container}")
    low, high = _range(host, f"invalid hostPort: {host}") if host else (0, 0)
    count = last - first + 1
    if low and high - low + 1 != count:
        if count != 1:
            raise InvalidParameterError(
                f"invalid ranges specified for container and host Ports: {container} and {host}"
            )
        return [PortRequest(first, protocol, host_ip, low, high)]
    return [
        PortRequest(first + i, protocol, host_ip, low + i if low else 0, low + i if low else 0) for i in range(count)
    ]


def parse_bindings(bindings: Mapping[str, Sequence[Mapping[str, str]] | None]) -> list[PortRequest]:
    """Parse HostConfig.PortBindings, ``{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}``.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    requests: list[PortRequest] = []
    for key, hosts in bindings.items():
        port, protocol = parse_port(key)
        for host in hosts or [{}]:
            text = host.get("HostPort") or ""
            low, high = _range(text, f"invalid port specification: {text!r}") if text else (0, 0)
            requests.append(PortRequest(port, protocol, check_host_ip(host.get("HostIp") or ""), low, high))
    return requests


def exposed_requests(exposed: Iterable[str]) -> list[PortRequest]:
    """Return a request for a random host port of each exposed port ("80/tcp", "8000-8010/udp"), as ``-P`` wishes."""
    requests: list[PortRequest] = []
    for key in exposed:
        ports, slash, protocol = key.partition("/")
        first, last = _range(ports, f"invalid containerPort: {ports}")
        requests.extend(
            PortRequest(*parse_port(f"{port}/{protocol if slash else 'tcp'}")) for port in range(first, last + 1)
        )
    return requests


def to_bindings(requests: Iterable[PortRequest]) -> dict[str, list[dict[str, str]]]:
    """Return HostConfig.PortBindings for the requests."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for request in requests:
        port = "" if not request.first else str(request.first)
        if request.last > request.first:
            port = f"{request.first}-{request.last}"
        bindings.setdefault(request.key, []).append({"HostIp": request.host_ip, "HostPort": port})
    return bindings


def check_host_ip(text: str) -> str:
    """Return a host address as it is written canonically; "" stays.

    Raises:
        InvalidParameterError: it is no address.
    """
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise InvalidParameterError(f"invalid IP address: {text}") from None


def _split(address: str) -> tuple[str, str, str]:
    """Split ``[ip:][host:]container``; the address may be IPv6 in brackets."""
    if address.startswith("["):
        host_ip, bracket, rest = address[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise InvalidParameterError(f"invalid IP address: {address}")
        host, colon, container = rest[1:].rpartition(":")
        if not colon:
            raise InvalidParameterError(f"invalid publish: {address}")
        return host_ip, host, container
    parts = address.split(":")
    if len(parts) > 3:
        return ":".join(parts[:-2]), parts[-2], parts[-1]
    return ("", "", *parts)[-3], ("", "", *parts)[-2], parts[-1]


def _range(text: str, message: str) -> tuple[int, int]:
    """Parse "80" or "80-90", ASCII digits only."""
    low, dash, high = text.partition("-")
    if not dash:
        high = low
    if not _PORT.fullmatch(low) or not _PORT.fullmatch(high) or int(high) > _MAX_PORT or int(low) > int(high):
        raise InvalidParameterError(message)
    return int(low), int(high)
