"""Where a registry is spoken to, and how much it is trusted.

Plain HTTP, and TLS that nobody vouches for, are for registries that the administrator named (``insecure-registries``:
a host, host:port or network) and, as with Docker, for 127.0.0.0/8 and ::1 as long as none are named. A registry that is
not one of these is spoken to with verified TLS or not at all (threats.md E10).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orlop.errors import InvalidParameterError
from orlop.spec.reference import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HUB = "https://registry-1.docker.io"
HUB_LOGIN = "https://index.docker.io/v1/"
_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Trust:
    """What ``hosts.toml`` says of speaking to one host.

    Attributes:
        authorities: files, beside the system's.
        clients: certificates and their keys; no key when it is in the same file.
        skip_verify: nobody need vouch for its certificate.
        headers: of each request.
    """

    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a registry.

    Attributes:
        url: scheme, host and port, and a mirror's path; no slash at the end.
        insecure: nobody vouches for its certificate.
        mirror: it only has copies: never pushed to, never given the user's credentials.
        path: URL of the API where that is not the address with ``/v2``; empty otherwise.
        trust: instead of what is usual for the host; None for nothing.
    """

    url: str
    insecure: bool = False
    mirror: bool = False
    path: str = ""
    trust: Trust | None = None

    @property
    def api(self) -> str:
        """Where the API is, no slash at the end."""
        return self.path or f"{self.url}/v2"

    @property
    def host(self) -> str:
        """Host and port as written, which is the name of its directory in ``certs.d``."""
        return urlsplit(self.url).netloc

    @property
    def plain(self) -> bool:
        """Whether it is spoken to without TLS."""
        return self.url.startswith("http://")


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """The administrator's settings.

    Attributes:
        mirrors: URLs of registries that have copies of Docker Hub's images.
        insecure: hosts, host:port or networks.
    """

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()

    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Return the networks of insecure registries; loopback when none are named."""
        found = [network for text in self.insecure if (network := _network(text)) is not None]
        return found or [ipaddress.ip_network(text) for text in _LOOPBACK]


def check_mirror(text: str) -> None:
    """Raise InvalidParameterError, in Docker's words, unless it is a mirror's URL."""
    parts = urlsplit(text)
    try:
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise InvalidParameterError(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{text}"')
    if parts.query or parts.fragment or parts.username is not None:
        raise InvalidParameterError(f'invalid mirror: path, query, or fragment at end of the URI "{text}"')


def check_insecure(text: str) -> None:
    """Raise InvalidParameterError, in Docker's words, unless it is a host, host:port or network."""
    if text.lower().startswith(("http://", "https://")):
        raise InvalidParameterError(f"insecure registry {text} should not contain '://'")
    host, port = split_host(text)
    if _network(text) is None and (not host or "/" in text or host.startswith("-") or not (port or ":" not in text)):
        raise InvalidParameterError(f'insecure registry {text} is not valid: invalid host "{text}"')


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def split_host(text: str) -> tuple[str, str]:
    """Return host, without an IPv6 address's brackets, and port, empty for none."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port


def is_loopback(host: str) -> bool:
    """Tell whether a host, without port, is this machine by its spelling."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Endpoints:
    """Finds the addresses of registries. Owns nothing.

    Args:
        options: the administrator's settings.
        resolve: returns a host's addresses, none when unknown.
        hosts: returns what a file says of a registry's addresses (:mod:`orlop.registry.hosts`), None for nothing.
    """

    def __init__(
        self,
        options: RegistryOptions,
        resolve: Callable[[str], Sequence[str]],
        hosts: Callable[[str], list[Endpoint] | None] = lambda _: None,
    ) -> None:
        self._hosts = hosts
        self._options = options
        self._networks = options.networks()
        self._resolve = resolve

    @property
    def options(self) -> RegistryOptions:
        """The settings."""
        return self._options

    def is_insecure(self, domain: str) -> bool:
        """Tell whether a registry may be spoken to without a trusted certificate. May ask the name service."""
        host, _ = split_host(domain)
        if domain in self._options.insecure or host in self._options.insecure:
            return True
        try:
            addresses: Iterable[str] = (str(ipaddress.ip_address(host)),)
        except ValueError:
            addresses = self._resolve(host) if self._names_help(host) else ()
        return any(
            address.version == network.version and address in network
            for address in map(ipaddress.ip_address, addresses)
            for network in self._networks
        )

    def _names_help(self, host: str) -> bool:
        """Whether a name's addresses matter: an answer of the name service must not lower trust unless asked for."""
        return host == "localhost" or any(_network(text) is not None for text in self._options.insecure)

    def pull(self, domain: str) -> list[Endpoint]:
        """Return where to pull from, in order. Reads files: call it from a thread."""
        written = self._hosts(domain)
        if written is not None:
            return written
        mirrors = self._options.mirrors if domain == DEFAULT_DOMAIN else ()
        found = [
            Endpoint(url.rstrip("/"), insecure=self.is_insecure(urlsplit(url).netloc), mirror=True) for url in mirrors
        ]
        return [*found, *self.push(domain)]

    def push(self, domain: str) -> list[Endpoint]:
        """Return where to push to and log in at, in order. Reads files: call it from a thread."""
        written = self._hosts(domain)
        if written is not None:
            return written[-1:]
        if domain == DEFAULT_DOMAIN:
            return [Endpoint(HUB)]
        if not self.is_insecure(domain):
            return [Endpoint(f"https://{domain}")]
        return [Endpoint(f"https://{domain}", insecure=True), Endpoint(f"http://{domain}", insecure=True)]


def login_domain(server: str) -> str:
    """Return the registry that a login's server address means; Docker Hub for an empty one and its old URL."""
    text = server.removeprefix("https://").removeprefix("http://")
    host = text.partition("/")[0]
    return DEFAULT_DOMAIN if host in ("", "index.docker.io", "docker.io", "registry-1.docker.io") else host
