"""Messages of ``moby.buildkit.v1.Control``, as far as something is done with their fields.

Source: github.com/moby/buildkit, ``api/services/control/control.proto``, ``api/types/worker.proto``,
``solver/pb/ops.proto``.
"""

from __future__ import annotations

from orlop.primitives.protobuf.message import (
    Message,
    blob,
    blobs,
    blobs_by_name,
    boolean,
    integer,
    nested,
    nesteds,
    nesteds_by_name,
    text,
    texts,
    texts_by_name,
)


class Timestamp(Message):
    """google.protobuf.Timestamp."""

    seconds: int = integer(1)
    nanos: int = integer(2)


class Position(Message):
    """A place in a text; lines from 1."""

    line: int = integer(1)
    character: int = integer(2)


class Range(Message):
    """A part of a text."""

    start: Position | None = nested(1, Position)
    end: Position | None = nested(2, Position)


class SourceInfo(Message):
    """A text that steps come from."""

    filename: str = text(1)
    data: bytes = blob(2)


class Definition(Message):
    """A low-level definition (LLB): operations, encoded one by one, and what is told of each by its digest."""

    operations: list[bytes] = blobs(1)
    metadata: dict[str, bytes] = blobs_by_name(2)


class CacheEntry(Message):
    """Where a cache is read from or written to."""

    type: str = text(1)
    attributes: dict[str, str] = texts_by_name(2)


class CacheOptions(Message):
    """Caches of one build."""

    exports: list[CacheEntry] = nesteds(4, CacheEntry)
    imports: list[CacheEntry] = nesteds(5, CacheEntry)


class Exporter(Message):
    """What becomes of the result."""

    type: str = text(1)
    attributes: dict[str, str] = texts_by_name(2)
    id: str = text(3)


class SolveRequest(Message):
    """One build; the exporter of old clients is told twice by new ones."""

    ref: str = text(1)
    definition: Definition | None = nested(2, Definition)
    exporter: str = text(3)
    exporter_attributes: dict[str, str] = texts_by_name(4)
    session: str = text(5)
    frontend: str = text(6)
    attributes: dict[str, str] = texts_by_name(7)
    cache: CacheOptions | None = nested(8, CacheOptions)
    entitlements: list[str] = texts(9)
    inputs: dict[str, Definition] = nesteds_by_name(10, Definition)
    source_policy: bytes = blob(12)
    exporters: list[Exporter] = nesteds(13, Exporter)


class SolveResponse(Message):
    """What programs read of a result."""

    exporter_response: dict[str, str] = texts_by_name(1)


class StatusRequest(Message):
    """Which build is looked at."""

    ref: str = text(1)


class Vertex(Message):
    """One step as the client shows it."""

    digest: str = text(1)
    inputs: list[str] = texts(2)
    name: str = text(3)
    cached: bool = boolean(4)
    started: Timestamp | None = nested(5, Timestamp)
    completed: Timestamp | None = nested(6, Timestamp)
    error: str = text(7)


class VertexStatus(Message):
    """A part of a step."""

    id: str = text(1)
    vertex: str = text(2)
    name: str = text(3)
    current: int = integer(4)
    total: int = integer(5)
    timestamp: Timestamp | None = nested(6, Timestamp)
    started: Timestamp | None = nested(7, Timestamp)
    completed: Timestamp | None = nested(8, Timestamp)


class VertexLog(Message):
    """What a step wrote; stream 1 is its standard output, 2 its standard error."""

    vertex: str = text(1)
    timestamp: Timestamp | None = nested(2, Timestamp)
    stream: int = integer(3)
    data: bytes = blob(4)


class VertexWarning(Message):
    """What a Dockerfile should better say."""

    vertex: str = text(1)
    level: int = integer(2)
    short: bytes = blob(3)
    detail: list[bytes] = blobs(4)
    url: str = text(5)
    info: SourceInfo | None = nested(6, SourceInfo)
    ranges: list[Range] = nesteds(7, Range)


class StatusResponse(Message):
    """What is new of a build."""

    vertices: list[Vertex] = nesteds(1, Vertex)
    statuses: list[VertexStatus] = nesteds(2, VertexStatus)
    logs: list[VertexLog] = nesteds(3, VertexLog)
    warnings: list[VertexWarning] = nesteds(4, VertexWarning)


class PlatformMessage(Message):
    """pb.Platform."""

    architecture: str = text(1)
    os: str = text(2)
    variant: str = text(3)


class Version(Message):
    """BuildkitVersion."""

    package: str = text(1)
    version: str = text(2)
    revision: str = text(3)


class WorkerRecord(Message):
    """Who builds."""

    id: str = text(1)
    labels: dict[str, str] = texts_by_name(2)
    platforms: list[PlatformMessage] = nesteds(3, PlatformMessage)
    version: Version | None = nested(5, Version)


class ListWorkersResponse(Message):
    """All of them."""

    record: list[WorkerRecord] = nesteds(1, WorkerRecord)


class InfoResponse(Message):
    """What the engine is."""

    version: Version | None = nested(1, Version)


class UsageRequest(Message):
    """Which records of the cache are meant."""

    filter: list[str] = texts(1)


class PruneRequest(Message):
    """Which records go: durations are nanoseconds, the rest is bytes."""

    filter: list[str] = texts(1)
    everything: bool = boolean(2)
    keep_duration: int = integer(3)
    reserved_space: int = integer(4)
    max_used_space: int = integer(5)
    min_free_space: int = integer(6)


class UsageRecord(Message):
    """One record of the cache."""

    id: str = text(1)
    mutable: bool = boolean(2)
    in_use: bool = boolean(3)
    size: int = integer(4)
    created_at: Timestamp | None = nested(6, Timestamp)
    last_used_at: Timestamp | None = nested(7, Timestamp)
    usage_count: int = integer(8)
    description: str = text(9)
    record_type: str = text(10)
    shared: bool = boolean(11)
    parents: list[str] = texts(12)


class UsageResponse(Message):
    """All records."""

    record: list[UsageRecord] = nesteds(1, UsageRecord)
