"""A file behind a URL, for ``docker import URL``: fetched by the engine, on nobody's behalf but the URL's.

A redirect may lead to http and https only, from TLS to TLS, with no user in it, and not to this machine or its link
(cloud metadata, for instance) unless the URL itself did: a stranger's server must not choose what the engine sees.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from orlop.errors import InvalidParameterError
from orlop.registry.failures import BODY_LIMIT, RegistryError, shown
from orlop.registry.http import REDIRECTING, REDIRECTS, absolute, without_query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from orlop.registry.http import Http

# Bytes that may be downloaded: what a disk holds is no reason for a stranger to fill it.
LIMIT = 16 << 30
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An answer whose body is still to come; ``size`` is 0 when the server did not say."""

    response: aiohttp.ClientResponse
    size: int
    limit: int

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes. Raises RegistryError: cut short, or more than the limit."""
        total = 0
        try:
            async for piece in self.response.content.iter_chunked(_CHUNK):
                total += len(piece)
                if total > self.limit:
                    raise RegistryError(f"file is larger than {self.limit} bytes")
                yield piece
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise RegistryError(f"unexpected end of download: {error or type(error).__name__}") from None


class RemoteFiles:
    """Owns nothing; ``resolve`` returns a host's addresses, none when unknown."""

    def __init__(self, http: Http, resolve: Callable[[str], Sequence[str]], *, limit: int = LIMIT) -> None:
        self._http = http
        self._resolve = resolve
        self._limit = limit

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[RemoteFile]:
        """Begin to get a file.

        Raises:
            InvalidParameterError: not a URL of http or https.
            RegistryError: not there, a redirect that is refused, or too large.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InvalidParameterError(f"not a URL of http or https, without a user: {without_query(url):.200}")
        response = await self._follow(url)
        try:
            size = response.content_length or 0
            if size > self._limit:
                raise RegistryError(f"file is larger than {self._limit} bytes: {size}")
            if response.status >= 400:
                body = await response.content.read(BODY_LIMIT)
                raise RegistryError(
                    f"failed to GET {without_query(url)} with status {response.status} {response.reason}: {shown(body)}"
                )
            yield RemoteFile(response, size, self._limit)
        finally:
            response.close()

    async def _follow(self, url: str) -> aiohttp.ClientResponse:
        began_here = await self._is_near(url)
        current = url
        for _ in range(REDIRECTS + 1):
            response = await self._http.send("GET", current, {})
            if response.status not in REDIRECTING:
                return response
            response.release()
            target = absolute(current, response.headers.get("Location", ""))
            if current.startswith("https://") and not target.startswith("https://"):
                raise RegistryError(f'refusing to be redirected from TLS to plain HTTP: "{without_query(target)}"')
            if not began_here and await self._is_near(target):
                raise RegistryError(f'refusing to be redirected to this machine: "{without_query(target)}"')
            current = target
        raise RegistryError(f'Get "{without_query(url)}": stopped after {REDIRECTS} redirects')

    async def _is_near(self, url: str) -> bool:
        host = urlsplit(url).hostname or ""
        addresses: Sequence[str] = (host,) if _is_address(host) else await asyncio.to_thread(self._resolve, host)
        found = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
        mapped = [getattr(address, "ipv4_mapped", None) or address for address in found]
        return any(one.is_loopback or one.is_link_local or one.is_unspecified for one in mapped)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
