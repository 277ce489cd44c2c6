"""``moby.buildkit.v1.Control``: builds from their beginning to their export, and what they tell.

Source: github.com/moby/buildkit, ``control/control.go``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orlop.api.buildkit.attributes import read_wishes
from orlop.api.buildkit.control_messages import (
    InfoResponse,
    ListWorkersResponse,
    SolveRequest,
    SolveResponse,
    StatusRequest,
)
from orlop.api.buildkit.errors import told_as_a_build
from orlop.api.buildkit.exporting import read_exporters
from orlop.api.buildkit.gateway import require_dockerfile
from orlop.api.buildkit.history_messages import UpdateHistoryRequest
from orlop.api.grpc.server import request_of, unary, unary_of
from orlop.api.grpc.status import CallError, Code
from orlop.errors import InvalidParameterError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.api.buildkit.control_messages import WorkerRecord
    from orlop.api.buildkit.exporting import Exporting
    from orlop.api.buildkit.history import History
    from orlop.api.buildkit.jobs import Evaluation, Job, Jobs
    from orlop.api.grpc.server import Handler
    from orlop.api.grpc.stream import Stream

_SERVICE = "/moby.buildkit.v1.Control/"


def methods(jobs: Jobs, exporting: Exporting, worker: WorkerRecord, history: History) -> Mapping[str, Handler]:
    """Return the service's methods."""

    async def list_workers(_stream: Stream, _request: bytes) -> bytes:
        return ListWorkersResponse(record=[worker]).encode()

    async def info(_stream: Stream, _request: bytes) -> bytes:
        return InfoResponse(version=worker.version).encode()

    async def solve(stream: Stream, request: SolveRequest) -> bytes:
        with told_as_a_build():
            exporters = read_exporters(request)
            _refuse(request)
        async with jobs.begin(request, stream.hand_over()) as job, history.recording(job):
            result = await _result(job)
            if result is None:
                return SolveResponse().encode()
            job.response = dict(await exporting.export(await result.image(), exporters, job))
            return SolveResponse(exporter_response=job.response).encode()

    async def status(stream: Stream) -> None:
        ref = (await request_of(stream, StatusRequest)).ref
        if jobs.find(ref) is None and await history.replay(ref, stream):
            return
        job = await jobs.wait(ref)
        async with contextlib.aclosing(job.log.read()) as told:
            async for data in told:
                await stream.send(data)

    return {
        f"{_SERVICE}ListWorkers": unary(list_workers),
        f"{_SERVICE}Info": unary(info),
        f"{_SERVICE}Solve": unary_of(SolveRequest, solve),
        f"{_SERVICE}Status": status,
        f"{_SERVICE}Session": jobs.sessions.serve_within,
        f"{_SERVICE}ListenBuildHistory": history.listen,
        f"{_SERVICE}UpdateBuildHistory": unary_of(UpdateHistoryRequest, history.update),
    }


def _refuse(request: SolveRequest) -> None:
    if request.definition is not None and request.definition.operations:
        require_dockerfile("")
    if request.source_policy:
        raise UnsupportedError("source policies are not supported")
    for entry in request.cache.exports if request.cache is not None else ():
        if entry.type != "inline":
            raise UnsupportedError(f"cache export is not supported: {entry.type[:80]}: only inline is")


async def _result(job: Job) -> Evaluation | None:
    """Return what is to be exported: what the frontend gives, or the client's own program returns; None for nothing."""
    request = job.request
    if request.frontend:
        with told_as_a_build():
            require_dockerfile(request.frontend)
            imports = [] if request.cache is None else request.cache.imports
            return job.add(read_wishes(request.attributes, imports), request.inputs)
    returned = await job.returned
    if returned.error is not None and returned.error.code:
        with contextlib.suppress(ValueError):
            raise CallError(Code(returned.error.code), returned.error.message, returned.error.details)
        raise CallError(Code.UNKNOWN, returned.error.message, returned.error.details)
    result = returned.result
    if result is None or (result.ref is None and result.refs is None):
        return None
    if result.ref is None:
        raise UnsupportedError("building for several platforms is not supported")
    if not result.ref.id:
        return None
    if result.ref.id in job.files and result.ref.id not in job.results:
        if request.exporters or request.exporter:
            raise UnsupportedError("files of a git repository cannot be exported: name a Dockerfile")
        return None
    if result.ref.id not in job.results:
        raise InvalidParameterError(f"no such ref: {result.ref.id[:80]}")
    return job.results[result.ref.id]
