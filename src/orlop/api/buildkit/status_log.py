"""What a build tells its clients (``Control/Status``): steps with their times, their parts, and what they write.

Every reader gets everything from the beginning. What all readers have is let go, and what nobody reads is bounded: a
build waits for its readers in :meth:`StatusLog.wait_room`, but for none that takes nothing for :data:`_PATIENCE`
seconds, and where there is no reader, or a build cannot wait, the oldest is forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from orlop.api.buildkit.control_messages import (
    Position,
    Range,
    SourceInfo,
    StatusResponse,
    Timestamp,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)
from orlop.errors import OrlopError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CANCELED = "context canceled"  # BuildKit's words of a step that was not let end
_KEPT_BYTES = 8 << 20
_REMEMBERED_BYTES = 1 << 20
_MOST_BYTES = 4 * _KEPT_BYTES  # also when somebody could still read them
_SOURCE_BYTES = 4 << 20  # of Dockerfiles that are told along with warnings, each with its own
_MOST_READERS = 16
_PATIENCE = 60.0
_BILLION = 1_000_000_000


def timestamp(nanoseconds: int) -> Timestamp:
    """Return a time since the epoch as it travels."""
    return Timestamp(seconds=nanoseconds // _BILLION, nanos=nanoseconds % _BILLION)


class KeptLog:
    """What is remembered of a build after its end: all of its steps, and of what they write the first megabyte.

    Attributes:
        data: messages, each behind its length (4 bytes, little-endian), as BuildKit keeps them.
        warnings: how many there were.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._steps: dict[str, Vertex] = {}
        self.warnings = 0

    def add(self, response: StatusResponse, data: bytes) -> None:
        """Take a message; ``data`` is its encoding."""
        self.warnings += len(response.warnings)
        for vertex in response.vertices:
            self._steps[vertex.digest] = vertex
        limit = _REMEMBERED_BYTES if response.logs or response.statuses else 2 * _REMEMBERED_BYTES
        if self._size + len(data) <= limit:
            self._parts += (len(data).to_bytes(4, "little"), data)
            self._size += len(data)

    @property
    def data(self) -> bytes:
        """All messages."""
        return b"".join(self._parts)

    @property
    def steps(self) -> int:
        """How many steps there were."""
        return len(self._steps)

    @property
    def completed_steps(self) -> int:
        """How many of them ended."""
        return sum(vertex.completed is not None for vertex in self._steps.values())

    @property
    def cached_steps(self) -> int:
        """How many of them were known."""
        return sum(vertex.cached for vertex in self._steps.values())


class StatusLog:
    """What one build has told so far; ``ref`` is its name, ``kept`` what is remembered of it."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self.kept = KeptLog()
        self._count = 0
        self._told: deque[bytes] = deque()
        self._size = 0
        self._sources = 0  # bytes of Dockerfiles that were told
        self._first = 0  # number of the oldest that is kept
        self._readers: dict[object, int] = {}
        self._closed = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def step(self, name: str) -> StepLog:
        """Begin to tell of a step."""
        self._count += 1
        digest = hashlib.sha256(f"{self._ref}/{self._count}".encode()).hexdigest()
        return StepLog(self, f"sha256:{digest}", name)

    def put(self, response: StatusResponse) -> None:
        """Tell something new."""
        data = response.encode()
        self._told.append(data)
        self.kept.add(response, data)
        self._size += len(data)
        while self._size > (_MOST_BYTES if self._readers else _KEPT_BYTES):
            self._forget()
        self._news.set()

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    def shown(self, source: SourceInfo) -> SourceInfo:
        """Return a Dockerfile for a warning; only its name when there have been too many already."""
        self._sources += len(source.data)
        return source if self._sources <= _SOURCE_BYTES else SourceInfo(filename=source.filename)

    def _forget(self) -> None:
        self._size -= len(self._told.popleft())
        self._first += 1

    def close(self) -> None:
        """Say that nothing more will come."""
        self._closed = True
        self._news.set()
        self._room.set()

    async def wait_room(self) -> None:
        """Wait while readers have much to read yet."""
        while self._size > _KEPT_BYTES and self._readers and not self._closed:
            self._room.clear()
            first = self._first
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._room.wait()
            except TimeoutError:
                if first == self._first:
                    self._drop_slowest()

    def _drop_slowest(self) -> None:
        for reader, place in tuple(self._readers.items()):
            if place <= self._first:
                del self._readers[reader]
        self._let_go()

    async def read(self) -> AsyncGenerator[bytes]:
        """Yield what is told, encoded, to its end. Raises UnavailableError: too many read it, or others are faster."""
        if len(self._readers) >= _MOST_READERS:
            raise UnavailableError(f"too many readers of one build: {len(self._readers)}")
        reader = object()
        self._readers[reader] = self._first
        try:
            while True:
                if reader not in self._readers:
                    raise UnavailableError("too slow a reader of a build")
                place = max(self._readers[reader], self._first)
                if place < self._first + len(self._told):
                    data = self._told[place - self._first]
                    self._readers[reader] = place + 1
                    self._let_go()
                    yield data
                elif self._closed:
                    return
                else:
                    self._news.clear()
                    await self._news.wait()
        finally:
            self._readers.pop(reader, None)
            self._let_go()
            self._news.set()

    def _let_go(self) -> None:
        """Forget what all have read, but keep some for who comes late."""
        read = min(self._readers.values(), default=self._first)
        while self._size > _KEPT_BYTES // 2 and self._first < read:
            self._forget()
        self._room.set()


class StepLog:
    """What is told of one step."""

    def __init__(self, log: StatusLog, digest: str, name: str) -> None:
        self._log = log
        self.digest = digest
        self._vertex = Vertex(digest=digest, name=name)
        self._parts: dict[str, int] = {}

    def start(self) -> Self:
        """Tell that it begins."""
        self._vertex.started = timestamp(time.time_ns())
        self._put()
        return self

    def __enter__(self) -> Self:
        """Tell that it begins; leaving the block tells how it ended."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.complete()
        else:
            self.complete(str(error) if isinstance(error, OrlopError) else CANCELED)

    def complete(self, error: str = "", *, cached: bool = False) -> None:
        """Tell that it ended, once."""
        if self._vertex.completed is None:
            self._vertex.completed = timestamp(time.time_ns())
            self._vertex.error = error
            self._vertex.cached = cached
            self._put()

    @property
    def ended(self) -> bool:
        """Whether its end was told."""
        return self._vertex.completed is not None

    def write(self, stream: int, data: bytes) -> None:
        """Tell what it wrote: 1 is standard output, 2 standard error."""
        log = VertexLog(vertex=self.digest, timestamp=timestamp(time.time_ns()), stream=stream, data=data)
        self._log.put(StatusResponse(logs=[log]))

    def part(self, name: str, current: int = 0, total: int = 0, *, over: bool = False) -> None:
        """Tell how far a part of it is."""
        now = time.time_ns()
        started = self._parts.setdefault(name, now)
        status = VertexStatus(id=name, vertex=self.digest, name=name, current=current, total=total)
        status.timestamp, status.started = timestamp(now), timestamp(started)
        status.completed = timestamp(now) if over else None
        self._log.put(StatusResponse(statuses=[status]))

    def warn(self, short: str, detail: str, *, url: str, source: SourceInfo, line: int) -> None:
        """Tell what a line should better say."""
        place = Range(start=Position(line=line), end=Position(line=line))
        source = self._log.shown(source)
        warning = VertexWarning(vertex=self.digest, level=1, short=short.encode(), detail=[detail.encode()], url=url)
        warning.info, warning.ranges = source, [place]
        self._log.put(StatusResponse(warnings=[warning]))

    def _put(self) -> None:
        self._log.put(StatusResponse(vertices=[self._vertex]))
