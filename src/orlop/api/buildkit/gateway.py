"""``moby.buildkit.v1.frontend.LLBBridge``: a client's own program, between the beginning and the end of its Solve.

Results are Dockerfiles', and git repositories, whose files can be read. What is asked of one before it is returned is
answered; other low-level definitions, and programs that want to run commands, are refused.

Source: github.com/moby/buildkit, ``frontend/gateway``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.buildkit.attributes import read_wishes
from orlop.api.buildkit.errors import told_as_a_build
from orlop.api.buildkit.gateway_messages import (
    Capability,
    EvaluateRequest,
    FileRange,
    GatewaySolveRequest,
    GatewaySolveResponse,
    InputsResponse,
    Pong,
    ReadDirRequest,
    ReadDirResponse,
    ReadFileRequest,
    ReadFileResponse,
    Ref,
    Result,
    ReturnRequest,
    StatFileRequest,
    StatFileResponse,
)
from orlop.api.buildkit.inputs import definition_of, repository_of
from orlop.api.buildkit.result_files import repository_files
from orlop.api.buildkit.subrequests import answer
from orlop.api.grpc.server import unary, unary_of
from orlop.errors import InvalidParameterError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from orlop.api.buildkit.control_messages import WorkerRecord
    from orlop.api.buildkit.jobs import Job, Jobs
    from orlop.api.grpc.server import Handler
    from orlop.api.grpc.stream import Stream

_SERVICE = "/moby.buildkit.v1.frontend.LLBBridge/"
_BUILD = "buildkit-controlapi-buildid"
FRONTEND = "dockerfile.v0"
# What programs are told that they may ask for (frontend/gateway/pb/caps.go).
_CAPABILITIES = (
    "solve.base",
    "solve.inlinereturn",
    "return",
    "returnmap",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "gateway.evaluate",
    "gateway.solve.evaluate",
    "importcaches",
    "frontend.caps",
    "readfile",
    "readdir",
    "statfile",
)
# Clients compare what they put into definitions with these (solver/pb/caps.go).
_LOW_LEVEL = (
    "source.image",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.git",
    "source.git.fullurl",
    "source.git.subdir",
    "source.http",
    "exporter.sourcedateepoch",
    "constraints",
    "platform",
    "meta.description",
    "gc.freespacefilter",
)


def methods(jobs: Jobs, worker: WorkerRecord) -> Mapping[str, Handler]:
    """Return the service's methods."""

    async def job_of(stream: Stream) -> Job:
        ref = stream.metadata.get(_BUILD, [""])[0]
        if not ref:
            raise InvalidParameterError(f"no {_BUILD} found in the call's metadata")
        return await jobs.wait(ref)

    async def ping(stream: Stream, _request: bytes) -> bytes:
        await job_of(stream)
        frontend = [Capability(id=name, enabled=True) for name in _CAPABILITIES]
        low_level = [Capability(id=name, enabled=True) for name in _LOW_LEVEL]
        return Pong(frontend=frontend, low_level=low_level, workers=[worker]).encode()

    async def solve(stream: Stream, request: GatewaySolveRequest) -> bytes:
        job = await job_of(stream)
        if not request.frontend and request.definition is None:
            return GatewaySolveResponse(result=Result(ref=Ref())).encode()
        with told_as_a_build():
            if url := "" if request.frontend or not request.definition else repository_of(request.definition):
                files = job.add_files(repository_files(job, url))
                return GatewaySolveResponse(result=Result(ref=Ref(id=files.id))).encode()
            require_dockerfile(request.frontend)
            job.hold(stream.hand_over())
            evaluation = job.add(read_wishes(request.attributes, request.cache_imports), request.inputs)
        if evaluation.wishes.subrequest:
            await evaluation.run()
            documents = answer(evaluation.wishes.subrequest, evaluation.telling)
            return GatewaySolveResponse(result=Result(ref=Ref(), metadata=dict(documents))).encode()
        if request.evaluate:
            await evaluation.run()
        ref = Ref(id=evaluation.id, definition=definition_of(evaluation.id))
        return GatewaySolveResponse(result=Result(ref=ref)).encode()

    async def evaluate(stream: Stream, request: EvaluateRequest) -> bytes:
        job, name = await job_of(stream), request.ref
        if name in job.files and name not in job.results:
            await job.files[name].directory()
            return b""
        if name not in job.results:
            raise InvalidParameterError(f"no such ref: {name[:80]}")
        await job.results[name].run()
        return b""

    async def inputs(stream: Stream, _request: bytes) -> bytes:
        return InputsResponse(definitions=(await job_of(stream)).request.inputs).encode()

    async def give_back(stream: Stream, request: ReturnRequest) -> bytes:
        job = await job_of(stream)
        if job.returned.done():
            raise InvalidParameterError("the build has returned already")
        job.hold(stream.hand_over())
        job.returned.set_result(request)
        return b""

    table = {
        "Ping": unary(ping),
        "Solve": unary_of(GatewaySolveRequest, solve),
        "Evaluate": unary_of(EvaluateRequest, evaluate),
        "Inputs": unary(inputs),
        "Return": unary_of(ReturnRequest, give_back),
        **_file_methods(job_of),
    }
    return {f"{_SERVICE}{name}": method for name, method in table.items()}


def _file_methods(job_of: Callable[[Stream], Awaitable[Job]]) -> dict[str, Handler]:
    """Return the methods that look into results."""

    async def read_file(stream: Stream, request: ReadFileRequest) -> bytes:
        place = request.range or FileRange()
        if min(place.offset, place.length) < 0:
            raise InvalidParameterError("invalid range of a file")
        files = (await job_of(stream)).files_of(request.ref)
        return ReadFileResponse(data=await files.read(request.path, place.offset, place.length)).encode()

    async def read_directory(stream: Stream, request: ReadDirRequest) -> bytes:
        files = (await job_of(stream)).files_of(request.ref)
        return ReadDirResponse(entries=await files.list(request.path, request.pattern)).encode()

    async def stat_file(stream: Stream, request: StatFileRequest) -> bytes:
        files = (await job_of(stream)).files_of(request.ref)
        return StatFileResponse(stat=await files.stat(request.path)).encode()

    return {
        "ReadFile": unary_of(ReadFileRequest, read_file),
        "ReadDir": unary_of(ReadDirRequest, read_directory),
        "StatFile": unary_of(StatFileRequest, stat_file),
    }


def require_dockerfile(frontend: str) -> None:
    """Raise UnsupportedError if something else is to be built than a Dockerfile."""
    if not frontend:
        raise UnsupportedError("low-level definitions of builds (LLB) are not supported: name a Dockerfile")
    if frontend != FRONTEND:
        raise UnsupportedError(f"frontend is not supported: {frontend[:80]}: only {FRONTEND} is")
