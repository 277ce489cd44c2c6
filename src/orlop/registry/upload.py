"""One blob to a registry: in one request when it is small, in chunks that can be continued when it is not.

::

    POST  uploads/                       202, Location
    PUT   <location>?digest=  <all>      201                                   small
    PATCH <location> <chunk>             202, Location           repeated      large; after a cut, GET <location> tells
    PUT   <location>?digest=             201                                     how much is there
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from orlop.registry.failures import RegistryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orlop.registry.repository import Repository
    from orlop.spec.manifest import Descriptor

ATTEMPTS = 5
_MONOLITHIC = 8 << 20
_CHUNK = 64 << 20
_FIRST_DELAY = 0.5


class Source(Protocol):
    """A blob's bytes."""

    def read(self, offset: int, size: int) -> AsyncIterator[bytes]:
        """Yield ``size`` bytes from ``offset`` on."""
        ...


async def upload(
    repository: Repository,
    blob: Descriptor,
    source: Source,
    pushing: Callable[[int, int], None],
    *,
    url: str | None = None,
    attempts: int = ATTEMPTS,
    first_delay: float = _FIRST_DELAY,
) -> None:
    """Upload a blob.

    Args:
        repository: where to.
        blob: what.
        source: its bytes.
        pushing: is told how many of how many bytes were sent.
        url: an upload that was begun (by a mount that was not granted).
        attempts: how often to try.
        first_delay: seconds before the second attempt; doubles.

    Raises:
        RegistryError: the registry refused or cannot be reached.
    """
    sent = 0
    for attempt in range(attempts):
        try:
            if url is None:
                url, sent = await repository.begin_upload(), 0
            elif sent:
                url, sent = await repository.written(url)
            await _send(_Upload(repository, blob, source, pushing), url, sent)
            return
        except RegistryError as error:
            if attempt + 1 == attempts or not (error.retry or (url is not None and error.status in (404, 416))):
                raise
            # What is not there any more, or is small, begins again; a large one is continued.
            keep = error.retry and error.status == 0 and blob.size > _MONOLITHIC
            url, sent = (url, 1) if keep else (None, 0)
            await asyncio.sleep(max(error.after, first_delay * 2**attempt))


class _Upload:
    def __init__(
        self, repository: Repository, blob: Descriptor, source: Source, pushing: Callable[[int, int], None]
    ) -> None:
        self.repository = repository
        self.blob = blob
        self._source = source
        self._pushing = pushing

    async def part(self, offset: int, size: int) -> AsyncIterator[bytes]:
        async for data in self._source.read(offset, size):
            offset += len(data)
            yield data
            self._pushing(offset, self.blob.size)


async def _send(work: _Upload, url: str, sent: int) -> None:
    blob, repository = work.blob, work.repository
    if blob.size <= _MONOLITHIC and not sent:
        await repository.finish_upload(url, blob.digest, work.part(0, blob.size), size=blob.size)
        return
    while sent < blob.size:
        size = min(_CHUNK, blob.size - sent)
        url = await repository.write(url, work.part(sent, size), offset=sent, size=size)
        sent += size
    await repository.finish_upload(url, blob.digest)
