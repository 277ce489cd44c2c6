"""Messages of ``moby.buildkit.v1.frontend.LLBBridge``, through which a client's own program asks for results.

Source: github.com/moby/buildkit, ``frontend/gateway/pb/gateway.proto``, ``util/apicaps/pb/caps.proto``.
"""

from __future__ import annotations

from orlop.api.buildkit.control_messages import CacheEntry, Definition, WorkerRecord
from orlop.api.buildkit.fsutil import Stat
from orlop.api.grpc.status import Status
from orlop.primitives.protobuf.message import (
    Message,
    blob,
    blobs_by_name,
    boolean,
    integer,
    nested,
    nesteds,
    nesteds_by_name,
    text,
    texts_by_name,
)


class Capability(Message):
    """Something that the engine can do."""

    id: str = text(1)
    enabled: bool = boolean(2)
    reason: str = text(5)


class Pong(Message):
    """What the engine can do, and who does it."""

    frontend: list[Capability] = nesteds(1, Capability)
    low_level: list[Capability] = nesteds(2, Capability)
    workers: list[WorkerRecord] = nesteds(3, WorkerRecord)


class Ref(Message):
    """One result: its name, and what it would be made of."""

    id: str = text(1)
    definition: Definition | None = nested(2, Definition)


class RefMap(Message):
    """Results by platform."""

    refs: dict[str, Ref] = nesteds_by_name(1, Ref)


class Result(Message):
    """What a solve gave; one of the two, or neither."""

    ref: Ref | None = nested(3, Ref)
    refs: RefMap | None = nested(4, RefMap)
    metadata: dict[str, bytes] = blobs_by_name(10)


class GatewaySolveRequest(Message):
    """What is to be made, by which frontend."""

    definition: Definition | None = nested(1, Definition)
    frontend: str = text(2)
    attributes: dict[str, str] = texts_by_name(3)
    cache_imports: list[CacheEntry] = nesteds(12, CacheEntry)
    inputs: dict[str, Definition] = nesteds_by_name(13, Definition)
    evaluate: bool = boolean(14)


class GatewaySolveResponse(Message):
    """The result."""

    result: Result | None = nested(3, Result)


class ReturnRequest(Message):
    """How the client's program ended."""

    result: Result | None = nested(1, Result)
    error: Status | None = nested(2, Status)


class EvaluateRequest(Message):
    """Which result is to be made now."""

    ref: str = text(1)


class FileRange(Message):
    """A part of a file."""

    offset: int = integer(1)
    length: int = integer(2)


class ReadFileRequest(Message):
    """Which file of which result."""

    ref: str = text(1)
    path: str = text(2)
    range: FileRange | None = nested(3, FileRange)


class ReadFileResponse(Message):
    """What is in it."""

    data: bytes = blob(1)


class ReadDirRequest(Message):
    """Which directory of which result; the pattern is of names."""

    ref: str = text(1)
    path: str = text(2)
    pattern: str = text(3)


class ReadDirResponse(Message):
    """What is in it."""

    entries: list[Stat] = nesteds(1, Stat)


class StatFileRequest(Message):
    """Which path of which result."""

    ref: str = text(1)
    path: str = text(2)


class StatFileResponse(Message):
    """What it leads to."""

    stat: Stat | None = nested(1, Stat)


class InputsResponse(Message):
    """What was given as inputs of the build."""

    definitions: dict[str, Definition] = nesteds_by_name(1, Definition)
