"""``docker buildx history``: builds that go on and builds of the past, told of, pinned, forgotten.

Source: github.com/moby/buildkit 0.25, ``solver/llbsolver/history.go``, ``control/control.go``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.api.buildkit.history_filters import read_filters
from orlop.api.buildkit.history_messages import (
    COMPLETE,
    DELETED,
    STARTED,
    Descriptor,
    HistoryEvent,
    HistoryRecord,
    HistoryRequest,
    PastExporter,
    UpdateHistoryRequest,
)
from orlop.api.buildkit.status_log import CANCELED, timestamp
from orlop.api.grpc.server import request_of
from orlop.api.grpc.status import CallError, Code, Status, code_of
from orlop.engine.builds import PastBuild
from orlop.errors import OrlopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orlop.api.buildkit.jobs import Job
    from orlop.api.grpc.stream import Stream
    from orlop.engine.builds import BuildHistory

_MOST_LATE = 1000
_LOG_TYPE = "application/vnd.buildkit.status.v0"
_LENGTH = 4


class History:
    """Owns the records of builds that go on, and who listens.

    Args:
        past: builds that are over.
    """

    def __init__(self, past: BuildHistory) -> None:
        self._past = past
        self._active: dict[str, PastBuild] = {}
        self._listeners: set[asyncio.Queue[tuple[int, PastBuild]]] = set()

    @contextlib.asynccontextmanager
    async def recording(self, job: Job) -> AsyncIterator[None]:
        """Remember what happens in the block as a build; ``job.response`` is what it gave."""
        request = job.request
        build = PastBuild(
            ref=request.ref,
            created=time.time_ns(),
            frontend=request.frontend,
            attributes=dict(request.attributes),
            exporters=[(one.type, dict(one.attributes)) for one in request.exporters],
        )
        self._active[build.ref] = build
        self._tell(STARTED, build)
        code, message = Code.OK, ""
        try:
            yield
        except OrlopError as error:
            code, message = code_of(error), str(error)
            raise
        except asyncio.CancelledError:
            code, message = Code.CANCELLED, CANCELED
            raise
        except BaseException:
            code, message = Code.INTERNAL, "internal error of the engine"
            raise
        finally:
            await asyncio.shield(job.end())  # what was cancelled says so
            del self._active[build.ref]
            self._complete(replace(build, code=int(code), message=message, response=job.response), job)

    def _complete(self, build: PastBuild, job: Job) -> None:
        told = job.log.kept
        log = told.data
        build = replace(
            build,
            completed=time.time_ns(),
            steps=told.steps,
            completed_steps=told.completed_steps,
            cached_steps=told.cached_steps,
            warnings=told.warnings,
            log_digest=f"sha256:{hashlib.sha256(log).hexdigest()}",
            log_size=len(log),
        )
        self._past.keep(build, log)
        self._tell(COMPLETE, build)

    async def listen(self, stream: Stream) -> None:
        """Tell of builds, and of those to come until the client leaves if it wants so."""
        request = await request_of(stream, HistoryRequest)
        is_meant = read_filters(request.filter)
        news: asyncio.Queue[tuple[int, PastBuild]] = asyncio.Queue(_MOST_LATE)
        self._listeners.add(news)
        try:
            for kind, build in self._known(request, is_meant):
                await stream.send(HistoryEvent(type=kind, record=_record(build)).encode())
            while not request.early_exit:
                kind, build = await news.get()
                if request.ref in ("", build.ref) and (kind == DELETED or is_meant(build)):
                    await stream.send(HistoryEvent(type=kind, record=_record(build)).encode())
                if news not in self._listeners:
                    raise CallError(Code.RESOURCE_EXHAUSTED, "too late for what is told of builds")
        finally:
            self._listeners.discard(news)

    def _known(self, request: HistoryRequest, is_meant: Callable[[PastBuild], bool]) -> list[tuple[int, PastBuild]]:
        """Return builds, newest first; as many of the past as are wanted, of those that the filters let through."""
        active = [build for build in self._active.values() if request.ref in ("", build.ref)]
        past: list[PastBuild] = []
        if request.ref and not request.active_only:
            past = [build for build in [self._past.find(request.ref)] if build is not None]
        elif not request.active_only:
            past = self._past.builds()
        past = [build for build in past if is_meant(build)]
        if request.limit > 0:
            past = past[: request.limit]
        return [*((STARTED, build) for build in active if is_meant(build)), *((COMPLETE, build) for build in past)]

    async def update(self, _stream: Stream, request: UpdateHistoryRequest) -> bytes:
        """Pin a record or forget it."""
        if request.delete:
            if self._past.remove(request.ref):
                self._tell(DELETED, PastBuild(ref=request.ref, created=0))
        elif not request.finalize:  # a record is complete when it is there
            self._tell(COMPLETE, self._past.pin(request.ref, pinned=request.pinned))
        return b""

    async def replay(self, ref: str, stream: Stream) -> bool:
        """Tell again what a build's clients were told; whether there is such a build."""
        log = self._past.log(ref)
        if log is None:
            return False
        place = 0
        while place < len(log):
            end = place + _LENGTH + int.from_bytes(log[place : place + _LENGTH], "little")
            await stream.send(log[place + _LENGTH : end])
            place = end
        return True

    def _tell(self, kind: int, build: PastBuild) -> None:
        for news in list(self._listeners):
            try:
                news.put_nowait((kind, build))
            except asyncio.QueueFull:
                self._listeners.discard(news)


def _record(build: PastBuild) -> HistoryRecord:
    record = HistoryRecord(
        ref=build.ref,
        frontend=build.frontend,
        attributes=dict(build.attributes),
        exporters=[PastExporter(type=kind, attributes=dict(attributes)) for kind, attributes in build.exporters],
        response=dict(build.response),
        generation=build.generation,
        pinned=build.pinned,
        cached_steps=build.cached_steps,
        steps=build.steps,
        completed_steps=build.completed_steps,
        warnings=build.warnings,
    )
    if build.created:
        record.created = timestamp(build.created)
    if build.completed:
        record.completed = timestamp(build.completed)
        record.logs = Descriptor(media_type=_LOG_TYPE, digest=build.log_digest, size=build.log_size)
    if build.code:
        record.error = Status(code=build.code, message=build.message)
    return record
