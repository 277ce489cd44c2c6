"""Messages of ``moby.buildkit.v1.Control`` about builds of the past.

Source: github.com/moby/buildkit 0.25, ``api/services/control/control.proto``.
"""

from __future__ import annotations

from orlop.api.buildkit.control_messages import Timestamp
from orlop.api.grpc.status import Status
from orlop.primitives.protobuf.message import Message, boolean, integer, nested, nesteds, text, texts, texts_by_name

STARTED, COMPLETE, DELETED = 0, 1, 2


class HistoryRequest(Message):
    """Which builds are told of; without ``early_exit`` what comes later as well."""

    active_only: bool = boolean(1)
    ref: str = text(2)
    early_exit: bool = boolean(3)
    filter: list[str] = texts(4)
    limit: int = integer(5)


class PastExporter(Message):
    """What became of a result."""

    type: str = text(1)
    attributes: dict[str, str] = texts_by_name(2)


class Descriptor(Message):
    """Something with a digest."""

    media_type: str = text(1)
    digest: str = text(2)
    size: int = integer(3)


class HistoryRecord(Message):
    """One build."""

    ref: str = text(1)
    frontend: str = text(2)
    attributes: dict[str, str] = texts_by_name(3)
    exporters: list[PastExporter] = nesteds(4, PastExporter)
    error: Status | None = nested(5, Status)
    created: Timestamp | None = nested(6, Timestamp)
    completed: Timestamp | None = nested(7, Timestamp)
    logs: Descriptor | None = nested(8, Descriptor)
    response: dict[str, str] = texts_by_name(9)
    generation: int = integer(12)
    pinned: bool = boolean(14)
    cached_steps: int = integer(15)
    steps: int = integer(16)
    completed_steps: int = integer(17)
    warnings: int = integer(19)


class HistoryEvent(Message):
    """That a build began, ended (or its record changed), or is forgotten."""

    type: int = integer(1)
    record: HistoryRecord | None = nested(2, HistoryRecord)


class UpdateHistoryRequest(Message):
    """What is to become of a record."""

    ref: str = text(1)
    pinned: bool = boolean(2)
    delete: bool = boolean(3)
    finalize: bool = boolean(4)
