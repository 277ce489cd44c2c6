"""Files from URLs, for contexts and ADD: what a server says is hostile, and may be endless.

Only http and https, redirects included; no cookie, no netrc, no proxy, no decompression; a limit of bytes and of
silence. A server on the engine's own network can be named: whoever may build may run commands there (threats.md F8).
"""

from __future__ import annotations

import email.utils
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.image.feed import in_thread
from orlop.primitives.owned_fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SIZE_LIMIT = 16 << 30
_SECONDS = 60.0
_REDIRECTS = 10
_PIECE = 1 << 18
_FAILURE = 400
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Download:
    """What came.

    Attributes:
        size: bytes.
        sha256: of them, in hex.
        media_type: as the server says, in lower case, without parameters.
        modified: seconds since the epoch as the server says; None when it does not.
        name: the last part of the URL's path; may be empty.
    """

    size: int
    sha256: str
    media_type: str
    modified: int | None
    name: str


def is_url(text: str) -> bool:
    """Tell whether a text is a URL that can be fetched."""
    return text.startswith(("http://", "https://"))


async def download(url: str, path: str, *, limit: int = SIZE_LIMIT) -> Download:
    """Fetch a URL into a new file.

    Args:
        url: http or https.
        path: of the file, in a private directory; it is left behind on failure, for the directory's owner to remove.
        limit: bytes after which it is given up.

    Raises:
        InvalidParameterError: no such URL, or a server that answers with a failure or too much.
        SystemFailureError: no answer; no space left on device.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise InvalidParameterError(f"invalid URL: {url[:200]}")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "orlop", "Accept-Encoding": "identity"},
            ) as session,
            session.get(URL(url), max_redirects=_REDIRECTS) as response,
        ):
            if response.status >= _FAILURE:
                raise InvalidParameterError(
                    f"failed to GET {url[:200]} with status {response.status} {response.reason or ''}".rstrip()
                )
            size, digest = await _write(response, path, limit)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise SystemFailureError(f"failed to GET {url[:200]}: {str(error) or type(error).__name__}") from None
    except OSError as error:
        raise SystemFailureError(f"failed to GET {url[:200]}: {(error.strerror or '').lower()}") from None
    return Download(
        size,
        digest,
        response.content_type.lower(),
        _moment(response.headers.get("Last-Modified", "")),
        unquote(parts.path.rpartition("/")[2]),
    )


async def _write(response: aiohttp.ClientResponse, path: str, limit: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with OwnedFd(os.open(path, _CREATE, 0o600)) as file:

        def write(data: bytes) -> None:
            digest.update(data)
            write_all(file.fileno(), data)

        async for data in response.content.iter_chunked(_PIECE):
            size += len(data)
            if size > limit:
                raise InvalidParameterError(f"more than {limit} bytes: {response.url.human_repr()[:200]}")
            await in_thread(write, data)
    return size, digest.hexdigest()


def write_all(fd: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _moment(text: str) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp()) if text else None
    except (ValueError, TypeError, OverflowError):
        return None


async def read_file(path: str) -> AsyncIterator[bytes]:
    """Yield a file's bytes, whoever wrote it."""
    with OwnedFd(os.open(path, _READ)) as file:
        while data := await in_thread(lambda size: os.read(file.fileno(), size), _PIECE):
            yield data
