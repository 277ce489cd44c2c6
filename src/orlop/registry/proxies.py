"""Which proxy a request to a registry goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go reads them.

``NO_PROXY`` is a list of hosts (``example.org`` with all below it, ``.example.org`` only what is below it), addresses
and networks, the first two with a port if they end in one; ``*`` is everything. What is on loopback is never asked for
through a proxy (golang.org/x/net/http/httpproxy).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from orlop.errors import InvalidParameterError
from orlop.registry.endpoints import is_loopback, split_host

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URL without its user, and that user."""

    url: str
    user: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class Proxies:
    """The administrator's settings: URLs and the list of exceptions, empty for none."""

    http: str = ""
    https: str = ""
    exceptions: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], *, http: str = "", https: str = "", exceptions: str = "") -> Proxies:
        """Take settings, and where they are empty the environment's variables."""

        def variable(name: str) -> str:
            return environment.get(name) or environment.get(name.lower(), "")

        return cls(http or variable("HTTP_PROXY"), https or variable("HTTPS_PROXY"), exceptions or variable("NO_PROXY"))

    def shown(self) -> tuple[str, str, str]:
        """Return what ``docker info`` shows: users and passwords are not."""
        return _masked(self.http), _masked(self.https), self.exceptions

    def choose(self, url: str) -> Proxy | None:
        """Return the proxy for a URL; None to go there directly.

        Raises:
            InvalidParameterError: it is of a kind that is not supported.
        """
        parts = urlsplit(url)
        text = self.https if parts.scheme == "https" else self.http
        host = (parts.hostname or "").rstrip(".").lower()
        if not text or is_loopback(host) or self._is_exception(host, parts.port or _PORTS.get(parts.scheme, 0)):
            return None
        return parse_proxy(text)

    def _is_exception(self, host: str, port: int) -> bool:
        return any(_matches(item.strip().lower(), host, port) for item in self.exceptions.split(",") if item.strip())


def parse_proxy(text: str) -> Proxy:
    """Read a proxy's URL, or its host and port.

    Raises:
        InvalidParameterError: none, or of a kind that is not supported: TLS to the proxy itself, SOCKS.
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http":
        raise InvalidParameterError(f"proxy is not supported, only http:// is: {_masked(text)}")
    if not parts.hostname or not port:
        raise InvalidParameterError(f"invalid proxy address: {_masked(text)}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Proxy(f"http://{host}:{port}", unquote(parts.username or ""), unquote(parts.password or ""))


def check_proxy(text: str) -> None:
    """Raise InvalidParameterError unless it is a proxy that can be used."""
    if text:
        parse_proxy(text)


def _matches(item: str, host: str, port: int) -> bool:
    if item == "*":
        return True
    address = _address(host)
    if "/" in item:
        try:
            network = ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
        return address is not None and address.version == network.version and address in network
    name, wanted = (item, "") if _address(item) is not None else split_host(item)
    if wanted and wanted != str(port):
        return False
    if _address(name) is not None:
        return address == _address(name)
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _masked(text: str) -> str:
    """Return a URL without its user and password, as dockerd shows it."""
    scheme, separator, rest = text.rpartition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{separator}xxxxx:xxxxx@{host}" if at and user else text
