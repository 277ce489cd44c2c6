"""One blob from a registry, whatever happens on the way: cuts, stalls, wrong ranges, wrong bytes.

What was received is never asked for again as long as the registry honours Range; the digest decides in the end. An
attempt that brought something forward does not count.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Protocol

import aiohttp

from orlop.errors import InvalidParameterError
from orlop.registry.failures import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.registry.repository import Repository
    from orlop.spec.manifest import Descriptor

ATTEMPTS = 5
_BATCH = 1 << 19
_BATCH_SECONDS = 0.1  # a slow registry's bytes are kept, and shown, as they come
_FORWARD = 1 << 20
_FIRST_DELAY = 0.5
_LAST_DELAY = 15.0
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)


class Sink(Protocol):
    """Where a blob's bytes go; what an earlier attempt received is in it already."""

    @property
    def size(self) -> int:
        """Bytes received."""
        ...

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""
        ...

    def reset(self) -> None:
        """Forget all bytes."""
        ...

    def is_whole(self) -> bool:
        """Tell whether the digest is right."""
        ...


class Watcher(Protocol):
    """Who is told how it goes."""

    def downloading(self, current: int, total: int) -> None:
        """Tell how many bytes there are."""
        ...

    def retrying(self, seconds: int) -> None:
        """Tell that there is a pause before the next attempt."""
        ...


async def download(
    repository: Repository,
    blob: Descriptor,
    sink: Sink,
    watcher: Watcher,
    *,
    attempts: int = ATTEMPTS,
    first_delay: float = _FIRST_DELAY,
) -> None:
    """Receive the blob until ``sink`` has all of it and its digest is right.

    Raises:
        RegistryError: the registry refused, cannot be reached, or sends other bytes.
        InvalidParameterError: the digest is wrong; what was received is forgotten.
        SystemFailureError: no space left on device.
    """
    failures = 0
    resumed = sink.size > 0
    while True:
        before = sink.size
        try:
            await _attempt(repository, blob, sink, watcher)
        except RegistryError as error:
            if not error.retry:
                raise
            failures = 1 if sink.size - before >= _FORWARD else failures + 1
            if failures >= attempts:
                raise
            resumed = resumed or sink.size > 0
            delay = max(error.after, min(first_delay * 2 ** (failures - 1), _LAST_DELAY) * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            await _pause(delay, watcher.retrying)
            continue
        if sink.is_whole():
            return
        sink.reset()
        if not resumed:
            raise InvalidParameterError(f"filesystem layer verification failed for digest {blob.digest}")
        resumed = False  # parts of different answers: once more, in one piece


async def _attempt(repository: Repository, blob: Descriptor, sink: Sink, watcher: Watcher) -> None:
    if sink.size > blob.size:
        sink.reset()
    if sink.size == blob.size and sink.size:
        return
    try:
        async with repository.blob(blob.digest, sink.size) as response:
            if sink.size and not _continues(response, sink.size, blob.size):
                sink.reset()
                if response.status == 206:
                    raise RegistryError("registry answered with another range than asked for", retry=True)
            elif not sink.size and response.status == 206:
                raise RegistryError("registry answered with a range that was not asked for", retry=True)
            await _receive(response, blob, sink, watcher)
    except RegistryError as error:
        if error.status == 416:
            sink.reset()
            raise RegistryError(str(error), status=416, retry=True) from None
        raise
    if sink.size < blob.size:
        raise RegistryError(f"unexpected EOF: {sink.size} of {blob.size} bytes of {blob.digest}", retry=True)


def _continues(response: aiohttp.ClientResponse, offset: int, size: int) -> bool:
    """Tell whether an answer is the rest of the blob and not something else."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or match is None:
        return False
    return int(match[1]) == offset and match[3] in ("*", str(size))


async def _receive(response: aiohttp.ClientResponse, blob: Descriptor, sink: Sink, watcher: Watcher) -> None:
    batch: list[bytes] = []
    waiting, written = 0, time.monotonic()
    try:
        async for chunk in response.content.iter_any():
            batch.append(chunk)
            waiting += len(chunk)
            if sink.size + waiting > blob.size:
                sink.reset()
                raise RegistryError(f"blob {blob.digest} is larger than the {blob.size} bytes that it should have")
            if waiting >= _BATCH or time.monotonic() - written >= _BATCH_SECONDS:
                await sink.write(b"".join(batch))
                batch, waiting, written = [], 0, time.monotonic()
                watcher.downloading(sink.size, blob.size)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        await sink.write(b"".join(batch))
        timeout = isinstance(error, aiohttp.ServerTimeoutError | TimeoutError)
        reason = "net/http: timeout while reading" if timeout else "unexpected EOF"
        raise RegistryError(f"{reason}: blob {blob.digest}", retry=True) from None
    await sink.write(b"".join(batch))
    watcher.downloading(sink.size, blob.size)


async def _pause(seconds: float, tell: Callable[[int], None]) -> None:
    while seconds > 0:
        tell(max(round(seconds), 1))
        await asyncio.sleep(min(seconds, 1.0))
        seconds -= 1.0
