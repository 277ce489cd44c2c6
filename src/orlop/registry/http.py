"""HTTP to registries: one hop after the other, so that each is judged.

aiohttp follows no redirect, keeps no cookie, reads no proxy variable (:mod:`orlop.registry.proxies` does), no .netrc,
and decompresses nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from orlop.errors import InvalidParameterError
from orlop.registry.failures import RegistryError
from orlop.registry.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Mapping

    from orlop.registry.certificates import Certificates
    from orlop.registry.endpoints import Endpoint

REDIRECTS = 10
REDIRECTING = frozenset({301, 302, 303, 307, 308})
_CONNECT_SECONDS = 30.0
_READ_SECONDS = 60.0
_LINE = 16 << 10
_NO_HOST = re.compile(r"\[Errno -?[0-9]+\] ")

Body = bytes | None


class Http:
    """Owns the connections to all registries.

    Args:
        certificates: makes TLS contexts.
        is_insecure: tells whether a host:port may be spoken to without a trusted certificate.
        agent: User-Agent.
        proxies: what requests go through.
        read_seconds: how long a registry may be silent.
    """

    def __init__(
        self,
        certificates: Certificates,
        is_insecure: Callable[[str], bool],
        *,
        agent: str = "orlop",
        proxies: Proxies | None = None,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        self._certificates = certificates
        self._is_insecure = is_insecure
        self._agent = agent
        self._proxies = proxies or Proxies()
        self._read_seconds = read_seconds
        self._session: aiohttp.ClientSession | None = None
        self._parent: Http | None = None
        self._endpoint: Endpoint | None = None

    def trusting(self, endpoint: Endpoint) -> Http:
        """Return one that treats this endpoint's host as the endpoint says; its connections are this one's."""
        if endpoint.trust is None:
            return self
        other = Http(
            self._certificates,
            self._is_insecure,
            agent=self._agent,
            proxies=self._proxies,
            read_seconds=self._read_seconds,
        )
        other._parent, other._endpoint = self, endpoint
        return other

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def opened(self) -> aiohttp.ClientSession:
        """Return the session, which is this object's, or that of the one that it was made of."""
        if self._parent is not None:
            return self._parent.opened()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._read_seconds),
                headers={"User-Agent": self._agent, "Accept-Encoding": "identity"},
                max_line_size=_LINE,
                max_field_size=_LINE,
            )
        return self._session

    async def is_insecure(self, host: str) -> bool:
        """Tell whether a host:port may be spoken to without a trusted certificate."""
        return await asyncio.to_thread(self._is_insecure, host)

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        data: bytes | AsyncIterable[bytes] | None = None,
    ) -> aiohttp.ClientResponse:
        """Make one request, without following anything; the caller releases the answer.

        Raises:
            RegistryError: there was no answer; ``retry`` unless TLS is to blame.
        """
        parts = urlsplit(url)
        try:
            proxy = self._proxies.choose(url)
        except InvalidParameterError as error:
            raise RegistryError(f'{method.capitalize()} "{without_query(url)}": {error}') from None
        context: ssl.SSLContext | bool = False
        if parts.scheme == "https":
            context = await self._context(parts.netloc)
        if self._own(parts.netloc) and self._endpoint is not None and self._endpoint.trust is not None:
            headers = {**headers, **dict(self._endpoint.trust.headers)}
        try:
            return await self.opened().request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=data,
                ssl=context,
                allow_redirects=False,
                proxy=None if proxy is None else proxy.url,
                proxy_auth=None if proxy is None or not proxy.user else aiohttp.BasicAuth(proxy.user, proxy.password),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise unreachable(method, url, error) from None

    def _own(self, host: str) -> bool:
        return self._endpoint is not None and host == self._endpoint.host

    async def _context(self, host: str) -> ssl.SSLContext:
        if self._own(host) and self._endpoint is not None and self._endpoint.trust is not None:
            return await asyncio.to_thread(self._certificates.context_of, host, self._endpoint.trust)
        insecure = await self.is_insecure(host)
        return await asyncio.to_thread(self._certificates.context, host, insecure=insecure)

    async def follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        secret: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """Make a request without a body and follow redirects.

        Args:
            method: GET or HEAD.
            url: where to begin.
            headers: for every hop.
            secret: for hops to the same scheme, host and port as ``url``, and for no other (threats.md E9).

        Raises:
            RegistryError: no answer, a redirect that goes nowhere, out of TLS, or too many.
        """
        first, current = origin(url), url
        for _ in range(REDIRECTS + 1):
            same = origin(current) == first
            response = await self.send(method, current, {**headers, **(secret or {})} if same else headers)
            if response.status not in REDIRECTING:
                return response
            response.release()
            current = await self._target(current, response.headers.get("Location", ""))
        raise RegistryError(f'{method.capitalize()} "{url}": stopped after {REDIRECTS} redirects')

    async def _target(self, url: str, location: str) -> str:
        target = absolute(url, location)
        if (
            url.startswith("https://")
            and target.startswith("http://")
            and not await self.is_insecure(urlsplit(target).netloc)
        ):
            raise RegistryError(f'refusing to be redirected from TLS to plain HTTP: "{without_query(target)}"')
        return target


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port: what may see the same secrets."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def absolute(url: str, location: str) -> str:
    """Return where a Location header leads.

    Raises:
        RegistryError: nowhere.
    """
    try:
        target = URL(url, encoded=True).join(URL(location, encoded=True))
        valid = target.scheme in ("http", "https") and bool(target.host) and target.user is None
    except ValueError:
        valid = False
    if not location or not valid:
        raise RegistryError(f"registry answered with a bad Location: {location[:100]!r}")
    return str(target.with_fragment(None))


def without_query(url: str) -> str:
    """Return a URL for a message: its query may hold a signature."""
    return url.partition("?")[0]


def unreachable(method: str, url: str, error: BaseException) -> RegistryError:
    """Turn what aiohttp and the system say into what Docker says."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    retry = True
    reason = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason, retry = f"tls: failed to verify certificate: {_certificate(error.certificate_error)}", False
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        reason, retry = error.message, False
    elif isinstance(error, aiohttp.ClientProxyConnectionError):
        reason = f"proxyconnect tcp: dial tcp {error.host}:{error.port}: connect: {_os_words(error)}"
    elif isinstance(error, aiohttp.ClientConnectorDNSError):
        reason = f"dial tcp: lookup {parts.hostname}: {_NO_HOST.sub('', str(error.os_error)).lower()}"
    elif isinstance(error, aiohttp.ClientConnectorSSLError):
        reason, retry = f"tls: {error.os_error.reason if isinstance(error.os_error, ssl.SSLError) else reason}", False
    elif isinstance(error, aiohttp.ClientConnectorError):
        reason = f"dial tcp {parts.hostname}:{port}: connect: {_os_words(error)}"
    elif isinstance(error, aiohttp.ServerTimeoutError | TimeoutError):
        reason = "net/http: timeout awaiting response"
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        reason = "EOF"
    return RegistryError(f'{method.capitalize()} "{without_query(url)}": {reason}', retry=retry)


def _os_words(error: aiohttp.ClientConnectorError) -> str:
    return os.strerror(error.os_error.errno).lower() if error.os_error.errno else str(error.os_error)


def _certificate(error: BaseException) -> str:
    return getattr(error, "verify_message", "") or str(error)
