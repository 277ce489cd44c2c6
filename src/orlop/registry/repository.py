"""One repository of one registry: manifests, blobs and uploads, as requests (distribution-spec 1.1)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from orlop.errors import InvalidParameterError
from orlop.registry.authorization import NO_BASIC, Authorization, read_limited
from orlop.registry.challenge import parse_challenges
from orlop.registry.failures import BODY_LIMIT, RegistryError, refusal
from orlop.registry.http import absolute, origin
from orlop.spec.digest import Digest
from orlop.spec.manifest import ACCEPTED, SIZE_LIMIT
from orlop.spec.reference import is_valid_tag
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping

    import aiohttp

    from orlop.registry.endpoints import Endpoint
    from orlop.registry.http import Http

T = TypeVar("T")

_TAG_PAGES = 1000
_TAGS_LIMIT = 4 << 20
_ATTEMPTS = 3
_DELAY = 0.5


@dataclass(frozen=True, slots=True)
class Received:
    """A manifest or index as it came: ``digest`` is computed from the bytes."""

    data: bytes
    media_type: str
    digest: Digest


class Repository:
    """Requests to one repository through one endpoint.

    Attributes:
        endpoint: where.
        path: the repository's name there.
        authorization: the headers of one user.
    """

    def __init__(self, http: Http, endpoint: Endpoint, path: str, authorization: Authorization) -> None:
        self._http = http
        self.endpoint = endpoint
        self.path = path
        self.authorization = authorization

    @property
    def _base(self) -> str:
        return f"{self.endpoint.api}/{self.path}"

    async def ping(self) -> None:
        """Find out whether a registry is there.

        Raises:
            RegistryError: it is not.
        """
        url = f"{self.endpoint.api}/"
        response = await self._http.follow("GET", url, {})
        response.release()
        if response.status >= 500:
            raise refusal(response.status, b"")
        if response.status not in (200, 401, 403, 404, 429):
            raise RegistryError(f'Get "{url}": unexpected HTTP status: {response.status}')

    # Reading.

    async def tags(self) -> list[str]:
        """Return all tags. Raises RegistryError."""
        url = f"{self._base}/tags/list"
        found: list[str] = []
        for _ in range(_TAG_PAGES):
            async with self._get("GET", url, {}) as response:
                data = await read_limited(response, _TAGS_LIMIT)
                following = _next_page(response)
            found.extend(_tags(data))
            if following is None:
                return found
            if origin(following) != origin(url) or following == url:
                raise RegistryError("registry's list of tags leads elsewhere")
            url = following
        raise RegistryError("registry's list of tags has no end")

    async def resolve(self, name: str) -> Digest | None:
        """Return the digest of a tag's manifest; None when only getting it would tell, or would tell what is wrong."""
        try:
            async with self._get("HEAD", f"{self._base}/manifests/{name}", _ACCEPT) as response:
                return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except InvalidParameterError:
            return None
        except RegistryError as error:
            if error.status and not str(error).endswith(NO_BASIC):
                return None
            raise

    async def manifest(self, name: str | Digest) -> Received:
        """Get a manifest or index by tag or digest. What was asked for by digest has it.

        Raises:
            RegistryError: ``code`` tells what the registry said.
        """
        url = f"{self._base}/manifests/{name}"

        async def get() -> tuple[bytes, str]:
            async with self._get("GET", url, _ACCEPT) as response:
                return await read_limited(response, SIZE_LIMIT), response.headers.get("Content-Type", "")

        data, media_type = await _retried(get)
        digest = Digest.of(data)
        if isinstance(name, Digest) and digest != name:
            raise RegistryError(f"manifest verification failed for digest {name}")
        return Received(data, media_type.partition(";")[0].strip(), digest)

    async def document(self, digest: Digest, size: int) -> bytes:
        """Get a small blob of at most ``size`` bytes; its digest is the caller's to check. Raises RegistryError."""

        async def get() -> bytes:
            async with self.blob(digest) as response:
                return await read_limited(response, size)

        return await _retried(get)

    @asynccontextmanager
    async def blob(self, digest: Digest, offset: int = 0) -> AsyncIterator[aiohttp.ClientResponse]:
        """Begin to get a blob, from ``offset`` bytes on; the answer's status says whether that was heeded.

        Raises:
            RegistryError: the registry refused; 416 included.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get("GET", f"{self._base}/blobs/{digest}", headers) as response:
            yield response

    async def has_blob(self, digest: Digest) -> bool:
        """Tell whether the repository has a blob. Raises RegistryError."""
        try:
            async with self._get("HEAD", f"{self._base}/blobs/{digest}", {}):
                return True
        except RegistryError as error:
            if error.status == 404:
                return False
            raise

    @asynccontextmanager
    async def _get(self, method: str, url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        own = origin(url) == origin(self.endpoint.url)  # a registry may lead uploads elsewhere (threats.md E9)
        for attempt in range(2):
            header = self.authorization.header() if own else ""
            secret = {"Authorization": header} if header else {}
            response = await self._http.follow(method, url, headers, secret=secret)
            try:
                asked = response.status == 401 and own and origin(str(response.url)) == origin(url)
                if asked and not attempt and await self._challenged(response, header, method, url):
                    continue
                if response.status >= 400:
                    raise await _refused(response)
                yield response
                return
            finally:
                response.release()

    async def _challenged(self, response: aiohttp.ClientResponse, header: str, method: str, url: str) -> bool:
        try:
            return await self.authorization.answer(response.headers.getall("WWW-Authenticate", []), header)
        except RegistryError as error:
            if str(error) == NO_BASIC:
                raise RegistryError(
                    f'{method.capitalize()} "{url}": {error}', code=error.code, status=error.status
                ) from None
            raise

    # Writing.

    async def mount(self, digest: Digest, source: str) -> str | None:
        """Ask for a blob of another repository; None when it was given, else the URL of the upload that was begun.

        Raises:
            RegistryError: the registry refused.
        """
        query = urlencode({"mount": str(digest), "from": source})
        async with self._put("POST", f"{self._base}/blobs/uploads/?{query}") as response:
            return None if response.status == 201 else _upload_url(response)

    async def begin_upload(self) -> str:
        """Begin to upload a blob; returns the URL to write to. Raises RegistryError."""
        async with self._put("POST", f"{self._base}/blobs/uploads/") as response:
            return _upload_url(response)

    async def write(self, url: str, data: AsyncIterable[bytes], *, offset: int, size: int) -> str:
        """Upload ``size`` bytes of a blob that begin at ``offset``; returns the URL for what comes next."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Range": f"{offset}-{offset + size - 1}",
        }
        async with self._put("PATCH", url, headers, data) as response:
            return _upload_url(response)

    async def written(self, url: str) -> tuple[str, int]:
        """Return the URL to go on at, and how many bytes of an upload the registry has. Raises RegistryError."""
        async with self._get("GET", url, {}) as response:
            first, dash, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if first != "0" or not dash or not (last.isascii() and last.isdigit()):
                raise RegistryError("registry does not say how much of the upload it has")
            location = response.headers.get("Location", "")
            # "0-0" is both nothing and one byte: nothing is the safe reading, the registry starts again.
            return absolute(url, location) if location else url, int(last) + 1 if int(last) else 0

    async def finish_upload(
        self, url: str, digest: Digest, data: AsyncIterable[bytes] | None = None, *, size: int = 0
    ) -> None:
        """End an upload, with the last, or all, bytes. Raises RegistryError."""
        joint = "&" if "?" in url else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        target = f"{url}{joint}digest={quote(str(digest))}"
        async with self._put("PUT", target, headers, data if data is not None else b""):
            return

    async def cancel_upload(self, url: str) -> None:
        """Give an upload up; that the registry does not care is fine."""
        try:
            async with self._put("DELETE", url):
                return
        except RegistryError:
            return

    async def put_manifest(self, name: str | Digest, data: bytes, media_type: str) -> None:
        """Upload a manifest. Raises RegistryError."""
        headers = {"Content-Type": media_type}
        async with self._put("PUT", f"{self._base}/manifests/{name}", headers, data):
            return

    @asynccontextmanager
    async def _put(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request that changes something. A redirect is a refusal; a stream is sent once."""
        own = origin(url) == origin(self.endpoint.url)
        for attempt in range(2):
            header = self.authorization.header() if own else ""
            secret = {"Authorization": header} if header else {}
            response = await self._http.send(method, url, {**(headers or {}), **secret}, data=data)
            try:
                if response.status == 401 and own and not attempt and (data is None or isinstance(data, bytes)):
                    challenges = response.headers.getall("WWW-Authenticate", [])
                    if await self.authorization.answer(challenges, header):
                        continue
                if response.status >= 300:
                    raise await _refused(response)
                yield response
                return
            finally:
                response.release()


async def _retried(get: Callable[[], Awaitable[T]]) -> T:
    for attempt in range(_ATTEMPTS):
        try:
            return await get()
        except RegistryError as error:
            if not error.retry or attempt + 1 == _ATTEMPTS:
                raise
            await asyncio.sleep(max(error.after, _DELAY * 2**attempt))
    raise AssertionError("unreachable")


_ACCEPT = {"Accept": ", ".join(ACCEPTED)}


async def _refused(response: aiohttp.ClientResponse) -> RegistryError:
    try:
        body = await read_limited(response, BODY_LIMIT)
    except RegistryError:
        body = b""
    challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
    if response.status < 400:
        return RegistryError(f"registry answered with an unexpected redirect: {response.status}")
    return refusal(response.status, body, challenges, retry_after=response.headers.get("Retry-After", ""))


def _upload_url(response: aiohttp.ClientResponse) -> str:
    return absolute(str(response.url), response.headers.get("Location", ""))


def _next_page(response: aiohttp.ClientResponse) -> str | None:
    """Return where ``Link: <...>; rel="next"`` leads."""
    link = response.headers.get("Link", "")
    target, _, parameters = link.partition(">")
    if not target.startswith("<") or "next" not in parameters:
        return None
    return absolute(str(response.url), target[1:])


def _tags(data: bytes) -> list[str]:
    try:
        tags = Fields(parse_object(data, limit=_TAGS_LIMIT, what="list of tags"), "list of tags").texts("tags")
    except InvalidParameterError as error:
        raise RegistryError(str(error)) from None
    return [tag for tag in tags or () if is_valid_tag(tag)]
