"""The builds that clients have begun, by their names, and the results that they asked for.

::

    Control/Solve(ref) ──▶ Job ──▶ StatusLog ◀── Control/Status(ref)
                            │
    LLBBridge/Solve ────────┤ results, each built once, when somebody wants it
    LLBBridge/Return ───────┘ says which of them Control/Solve exports
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING

from orlop.api.buildkit.attributes import build_request
from orlop.api.buildkit.building import BuildingClient
from orlop.api.buildkit.errors import build_error
from orlop.api.buildkit.inputs import named_result
from orlop.api.buildkit.result_files import ResultFiles
from orlop.api.buildkit.status_log import CANCELED, StatusLog
from orlop.api.buildkit.telling import BuildTelling
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, OrlopError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from orlop.api.buildkit.attributes import Wishes
    from orlop.api.buildkit.control_messages import Definition, SolveRequest
    from orlop.api.buildkit.gateway_messages import ReturnRequest
    from orlop.api.buildkit.sessions import OpenSession, OpenSessions
    from orlop.api.grpc.holdings import Holding
    from orlop.engine.builds import BuildService

_WAIT_SECONDS = 6.0  # in which a build has to come that somebody asks about, as in BuildKit
_KEPT_SECONDS = 30.0  # in which somebody may ask about one that is over
_MOST_JOBS = 512
_MOST_ENDED = 64
_MOST_RESULTS = 64
_ENDED_BYTES = 32 << 20  # of what is told of builds that are over
_INPUT = "input:"


class Evaluation:
    """One result, which is built when it is wanted first.

    Attributes:
        id: its name.
        wishes: what is wanted.
        telling: of its build.
    """

    def __init__(self, job: Job, wishes: Wishes, inputs: Mapping[str, Definition]) -> None:
        self.id = secrets.token_hex(12)
        self.telling = BuildTelling(job.log)
        self._job = job
        self.wishes = wishes
        self._inputs = {name: named_result(definition) for name, definition in inputs.items()}
        self._task: asyncio.Task[None] | None = None

    async def image(self) -> str:
        """Return the image's id. Raises CallError."""
        await self.run()
        return self.telling.image

    async def run(self) -> None:
        """Do what is wanted, once. Raises CallError."""
        if self._task is None:
            self._task = asyncio.create_task(self._build())
        await asyncio.shield(self._task)

    async def cancel(self) -> None:
        """Give up, and wait until nothing is left of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _build(self) -> None:
        job, telling = self._job, self.telling
        try:
            client = BuildingClient(
                await job.session(),
                job.builds.sessions.files,
                self.wishes,
                contexts=await self._contexts(),
                telling=telling,
                log=job.log,
            )
            with contextlib.closing(client):
                request = build_request(
                    self.wishes,
                    credentials=client,
                    entitlements=job.request.entitlements,
                )
                await job.builds.carry_out(request, _nothing(), telling, client)
            if telling.failure is not None:
                raise telling.failure
            telling.end_all("")
        except OrlopError as problem:
            error = build_error(problem, telling.place)
            telling.end_all(str(error))
            raise error from None
        except asyncio.CancelledError:
            telling.end_all(CANCELED)
            raise

    async def _contexts(self) -> dict[str, str]:
        """Return where named contexts come from, after what other builds have to give."""
        contexts = dict(self.wishes.contexts)
        for name, origin in contexts.items():
            if origin.startswith(_INPUT):
                result = self._inputs.get(origin.removeprefix(_INPUT))
                if result is None:
                    raise InvalidParameterError(f"invalid input for context {name}: {origin[:80]}")
                contexts[name] = f"docker-image://{await self._job.jobs.evaluation(result).image()}"
        return contexts


class Job:
    """One build of a client's, from its Solve's beginning to its end.

    Attributes:
        request: what was asked for.
        log: what is told of it.
        returned: what the client's own program ended with, when it has one.
        response: what programs are told of the result.
    """

    def __init__(self, jobs: Jobs, builds: BuildService, request: SolveRequest, holding: Holding) -> None:
        self.jobs = jobs
        self.builds = builds
        self.request = request
        self.log = StatusLog(request.ref)
        self.response: dict[str, str] = {}
        self.returned: asyncio.Future[ReturnRequest] = asyncio.get_running_loop().create_future()
        self.results: dict[str, Evaluation] = {}
        self.files: dict[str, ResultFiles] = {}
        self._holdings = [holding]

    async def session(self) -> OpenSession:
        """Return the client's session. Raises NotFoundError."""
        return await self.jobs.sessions.wait(self.request.session)

    def hold(self, holding: Holding) -> None:
        """Have what else was asked for counted until the build is forgotten."""
        self._holdings.append(holding)

    def forget(self) -> None:
        """Have nothing counted any more; a second time it does nothing."""
        for holding in self._holdings:
            holding.let_go()

    def add(self, wishes: Wishes, inputs: Mapping[str, Definition]) -> Evaluation:
        """Know of a result that may be wanted. Raises UnavailableError: too many; OrlopError: it cannot be."""
        if len(self.results) >= _MOST_RESULTS:
            raise UnavailableError(f"too many results of one build: {len(self.results)}")
        evaluation = Evaluation(self, wishes, inputs)
        self.results[evaluation.id] = evaluation
        return evaluation

    def add_files(self, files: ResultFiles, name: str = "") -> ResultFiles:
        """Know of files that may be wanted, of a result that has a name already or not. Raises UnavailableError."""
        if len(self.files) >= _MOST_RESULTS:
            raise UnavailableError(f"too many results of one build: {len(self.files)}")
        self.files[name or files.id] = files
        return files

    def files_of(self, name: str) -> ResultFiles:
        """Return the files of a result. Raises InvalidParameterError: there is none of that name."""
        if name in self.files:
            return self.files[name]
        if name not in self.results:
            raise InvalidParameterError(f"no such ref: {name[:80]}")
        evaluation = self.results[name]

        @contextlib.asynccontextmanager
        async def make() -> AsyncIterator[str]:
            async with self.builds.unpacked(await evaluation.image()) as directory:
                yield directory

        return self.add_files(ResultFiles(make), name)

    async def end(self) -> None:
        """End what still goes on."""
        for evaluation in self.results.values():
            await evaluation.cancel()  # first: somebody may wait for its files
        for files in self.files.values():
            await files.close()
        self.returned.cancel()
        self.log.close()


class Jobs:
    """Owns the builds of all clients.

    Args:
        builds: builds.
        sessions: of the clients.
    """

    def __init__(self, builds: BuildService, sessions: OpenSessions) -> None:
        self.builds = builds
        self.sessions = sessions
        self._jobs: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}  # oldest first
        self._came = asyncio.Event()

    @contextlib.asynccontextmanager
    async def begin(self, request: SolveRequest, holding: Holding) -> AsyncIterator[Job]:
        """Begin a build, which ends with the block; for a while it can be asked about afterwards.

        Args:
            request: what is asked for.
            holding: its bytes, which are let go when it is forgotten.

        Raises:
            ConflictError, InvalidParameterError, UnavailableError: its name is taken, or none; too many.
        """
        try:
            self._check(request.ref)
        except OrlopError:
            holding.let_go()
            raise
        job = self._jobs[request.ref] = Job(self, self.builds, request, holding)
        came, self._came = self._came, asyncio.Event()
        came.set()
        try:
            yield job
        finally:
            self._ended[request.ref] = self._jobs.pop(request.ref)
            await asyncio.shield(job.end())
            while len(self._ended) > 1 and (
                len(self._ended) > _MOST_ENDED or sum(one.log.size for one in self._ended.values()) > _ENDED_BYTES
            ):
                self._forget(next(iter(self._ended.values())))
            asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._forget, job)

    def _check(self, ref: str) -> None:
        """Look whether a build may begin. Raises ConflictError, InvalidParameterError, UnavailableError."""
        if not ref:
            raise InvalidParameterError("a build needs a reference")
        if ref in self._jobs or ref in self._ended:
            raise ConflictError(f"job ID {ref[:80]} exists")
        if len(self._jobs) >= _MOST_JOBS:
            raise UnavailableError(f"too many builds: {len(self._jobs)}")

    def _forget(self, job: Job) -> None:
        ref = job.request.ref
        if self._ended.get(ref) is job:
            del self._ended[ref]
            job.forget()

    def find(self, ref: str) -> Job | None:
        """Return a build that goes on or was not long ago."""
        return self._jobs.get(ref) or self._ended.get(ref)

    async def wait(self, ref: str) -> Job:
        """Return a build, which may be about to come. Raises NotFoundError."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while (job := self.find(ref)) is None:
                    await self._came.wait()
        except TimeoutError:
            raise NotFoundError(f"no such job {ref[:80]}") from None
        return job

    def evaluation(self, result: str) -> Evaluation:
        """Return a result of any build. Raises NotFoundError."""
        for job in (*self._jobs.values(), *self._ended.values()):
            if result in job.results:
                return job.results[result]
        raise NotFoundError(f"no such ref: {result[:80]}")


async def _nothing() -> AsyncIterator[bytes]:
    """Yield no context: it is the client's session that has one."""
    for piece in tuple[bytes, ...]():
        yield piece
