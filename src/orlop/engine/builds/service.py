"""``docker build``: a context comes in, an image comes out, and nothing else is left.

::

    <data-root>/builds/<hex>/             0700   one build; removed with it, or at the next start
      context/, ...                              the user's files (contexts.py)
      archive-<hex>/, files-<hex>/               what ADD unpacked, here-documents
    <exec-root>/builds/<hex>/             0700   what its steps mount of the client's (mounting.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.build.builder import Builder, Plan
from orlop.build.lint import ARGUMENT, check, check_instructions
from orlop.build.parser import DockerfileError
from orlop.build.steps import BuildOptions, StepFailedError
from orlop.engine.builds.client import Logins, NoClient
from orlop.engine.builds.contexts import Context, ContextMaker
from orlop.engine.builds.fetching import read_file
from orlop.engine.builds.output import BuildOutput, Place
from orlop.engine.builds.repositories import Repositories
from orlop.engine.builds.running import Runner, host_config
from orlop.engine.builds.sources import CacheSources
from orlop.engine.builds.steps_output import StepsOutput
from orlop.engine.builds.usage import BuildCache
from orlop.engine.builds.workshop import EngineWorkshop, Tools
from orlop.engine.pipes import open_pipe
from orlop.engine.registry.pull import PullRequest
from orlop.errors import OrlopError
from orlop.image.feed import pour
from orlop.image.importer import now, parse_name
from orlop.primitives.tar import END, Limits
from orlop.spec.docker.containers import HostConfig
from orlop.spec.launch import OverlayRoot
from orlop.spec.reference import parse_reference
from orlop.spec.timestamps import rfc3339_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.build.lint_findings import Findings
    from orlop.build.steps import BuildSecrets
    from orlop.engine.builds.client import BuildClient, CredentialSource
    from orlop.engine.builds.sessions import Sessions
    from orlop.engine.containers import ContainerService
    from orlop.engine.events import Events
    from orlop.engine.registry.output import Output
    from orlop.image.records import Image
    from orlop.spec.platform import Platform

_BILLION = 1_000_000_000
RunLimits = HostConfig


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asked for.

    Attributes:
        options: of the builder.
        dockerfile: its path in the context.
        tags: names of the image.
        quiet: tell only the image's id.
        steps: tell of steps as documents instead of Docker's text.
        check: look at the Dockerfile only, and tell what it should better say.
        plan: look at the Dockerfile only, and tell what would be done.
        limits: of the containers of steps.
        credentials: for pulls.
        remote: URL of the context; empty for the request's body, or the session's.
        session: id of the session that belongs to it; empty for none.
        cache_from: images whose layers are taken for steps; what is not here is passed over, as by dockerd.
        fetch_caches: pull those that are not here; what cannot be had is passed over, and told of.
    """

    options: BuildOptions
    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    quiet: bool = False
    steps: bool = False
    check: bool = False
    plan: bool = False
    limits: RunLimits = field(default_factory=HostConfig)
    credentials: CredentialSource = field(default_factory=Logins)
    remote: str = ""
    session: str = ""
    cache_from: tuple[str, ...] = ()
    fetch_caches: bool = False


class BuildService:
    """The use case.

    Args:
        tools: the engine's parts that steps are done with.
        containers: run the steps.
        sessions: what clients announced for their builds.
        events: is told of names and prunes.
        directory: ``<data-root>/builds``.
        private: ``<exec-root>/builds``, on a tmpfs.
        platform: of this machine.
        version: what images record as the engine that made them.
    """

    def __init__(
        self,
        tools: Tools,
        containers: ContainerService,
        *,
        sessions: Sessions,
        events: Events,
        directory: str,
        private: str,
        platform: Platform,
        version: str,
    ) -> None:
        self._tools = tools
        self._containers = containers
        self.sessions = sessions
        self.history = tools.history
        self._events = events
        self._directory = directory
        self._private = private
        self._platform = platform
        self._version = version
        self.cache = BuildCache(
            records=tools.records,
            images=tools.images,
            directories=tools.caches,
            files=sessions.files,
            events=events,
            users=containers.image_users,
            layer_size=tools.layers.size,
        )

    async def clean(self) -> None:
        """Remove what a crash left; call once, when containers have been adopted."""
        for name in self._tools.records.containers():
            with contextlib.suppress(OrlopError):
                await self._containers.remove(name, force=True, with_volumes=True)
            self._tools.records.end_container(name)
        for directory in (self._directory, self._private):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._tools.removals.bury(f"{directory}/{name}" for name in os.listdir(directory))
        self._tools.caches.clean()

    async def tree(self, name: str) -> AsyncIterator[bytes]:
        """Yield an image's files as a tar. Raises NotFoundError: "No such image: x:latest"."""
        image = self._tools.images.resolve(name)
        if image.chain is None:
            yield END
            return
        view = self._tools.layers.layer_view(image.chain)
        async with open_pipe() as (pieces, writer):
            packing = asyncio.ensure_future(self._tools.spawner.pack(view, writer))
            packing.add_done_callback(lambda _: os.close(writer))
            try:
                async for piece in pieces:
                    yield piece
                await packing
            finally:
                packing.cancel()

    @contextlib.asynccontextmanager
    async def unpacked(self, name: str) -> AsyncIterator[str]:
        """Have an image's files in a private directory until the block ends.

        Raises:
            NotFoundError: "No such image: x:latest".
            SystemFailureError: no space left on device, and the like.
        """
        directory = f"{self._directory}/{secrets.token_hex(12)}"
        os.mkdir(directory, 0o700)
        tree = OverlayRoot((), upper=directory)
        try:
            await pour(self.tree(name), lambda fd: self._tools.spawner.unpack(tree, fd, Limits(), plain=True))
            yield directory
        finally:
            self._tools.removals.bury([directory])

    @contextlib.asynccontextmanager
    async def fetched(self, url: str, client: BuildSecrets) -> AsyncIterator[str]:
        """Have a git repository's files in a private directory until the block ends.

        Raises:
            InvalidParameterError, SystemFailureError, UnavailableError: it cannot be had, as a context cannot.
        """
        directory = f"{self._directory}/{secrets.token_hex(12)}"
        for path in (directory, f"{directory}/work", f"{directory}/files"):
            os.mkdir(path, 0o700)
        tree = OverlayRoot((), upper=f"{directory}/files")
        try:
            for tar in await Repositories(client).archive(url, f"{directory}/work"):
                await pour(read_file(tar), lambda fd: self._tools.spawner.unpack(tree, fd, Limits(), plain=True))
            yield f"{directory}/files"
        finally:
            self._tools.removals.bury([directory])

    async def build(self, request: BuildRequest, context: AsyncIterator[bytes], output: Output) -> None:
        """Build and name an image.

        Args:
            request: what is wanted.
            context: the request's body.
            output: where it is told.

        Raises:
            InvalidParameterError, NotFoundError and others: in Docker's words. A command that failed is told in the
                output instead, with its code.
        """
        told = StepsOutput(output) if request.steps else BuildOutput(output, quiet=request.quiet)
        session = self.sessions.take(request.session) if request.session else None
        try:
            await self.carry_out(request, context, told, session or NoClient())
        finally:
            if session is not None:
                self.sessions.end(session)

    async def carry_out(
        self, request: BuildRequest, context: AsyncIterator[bytes], told: BuildOutput, client: BuildClient
    ) -> None:
        """Build and name an image for a client that has what the build asks for. Otherwise as :meth:`build`."""
        tags = [tag for text in request.tags if (tag := parse_name(text, "")) is not None]
        directory = f"{self._directory}/{secrets.token_hex(12)}"
        os.mkdir(directory, 0o700)
        runner = Runner(self._containers, self._tools.records, host=host_config(request.limits), output=told)
        try:
            done = await self._run(request, context, client, directory=directory, runner=runner, told=told)
        except StepFailedError as error:
            if not request.options.force_remove:
                runner.leave_ended()  # for the user to look at, as Docker does
            told.fail(error)
            return
        except OrlopError:
            told.flush()
            raise
        finally:
            # Also when the client left, which cancels this task: the engine itself goes on.
            await asyncio.shield(runner.remove_all())
            private = f"{self._private}/{os.path.basename(directory)}"
            self._tools.removals.bury([directory, private])
            self._tools.records.write_uses()
        if done is None:
            return
        image, stages = done
        await self._tools.images.store.complete(image)
        told.finish(str(image.id), [str(stage.id) for stage in stages])
        for tag in tags:
            self._tools.images.tag(str(image.id), str(tag), "")
            told.tagged(tag.familiar)

    def _check(self, made: Context, request: BuildRequest) -> Findings:
        return check(
            made.dockerfile,
            name=os.path.basename(request.dockerfile),
            build_args=request.options.build_args,
            ignored=made.ignored,
            variables_of=self._variables_of,
        )

    def _check_plan(self, plan: Plan, made: Context, request: BuildRequest) -> Findings:
        return check_instructions(
            plan.dockerfile,
            plan.instructions,
            build_args=request.options.build_args,
            ignored=made.ignored,
            variables_of=self._variables_of,
        )

    def _variables_of(self, name: str) -> list[str] | None:
        """Return the names of an image's environment; None when it is not here, since a check pulls nothing."""
        try:
            env = self._tools.images.resolve(name).config.config.env
        except OrlopError:
            return None
        return [entry.partition("=")[0] for entry in env or ()]

    async def _fetch_caches(self, request: BuildRequest, told: BuildOutput) -> None:
        """Pull the images that are named as caches and are not here."""
        for name in request.cache_from:
            with contextlib.suppress(OrlopError):
                self._tools.images.resolve(name)
                continue
            output = told.pulls(name)
            try:
                reference = parse_reference(name).with_default_tag()
                credentials = await request.credentials.credentials(reference.domain)
                await self._tools.registry.pull(PullRequest(reference, "", credentials), output)
            except OrlopError as error:
                output.error(str(error))

    def _sources(self, names: Sequence[str]) -> CacheSources:
        found = []
        for name in names:
            with contextlib.suppress(OrlopError):
                found.append(self._tools.images.resolve(name))
        return CacheSources(found, self._tools.layers.retain)

    async def _run(
        self,
        request: BuildRequest,
        context: AsyncIterator[bytes],
        client: BuildClient,
        *,
        directory: str,
        runner: Runner,
        told: BuildOutput,
    ) -> tuple[Image, list[Image]] | None:
        epoch = request.options.epoch
        if request.fetch_caches:
            await self._fetch_caches(request, told)
        workshop = EngineWorkshop(
            self._tools,
            directory,
            runner=runner,
            output=told,
            request=request,
            private=f"{self._private}/{os.path.basename(directory)}",
            client=client,
            sources=self._sources(request.cache_from),
        )
        maker = ContextMaker(
            self._tools.spawner,
            client,
            directory,
            base_image=lambda name: workshop.base_image(name, pull=request.options.pull, platform=""),
            repositories=Repositories(client),
        )
        made = await maker.make(context, remote=request.remote, dockerfile=request.dockerfile)
        name = os.path.basename(request.dockerfile)

        def locate(line: int, error: OrlopError, step: int = 0) -> None:
            told.locate(Place(name, line, made.dockerfile, step), error)

        if request.check:
            try:
                findings = await asyncio.to_thread(self._check, made, request)
            except DockerfileError as problem:
                locate(problem.line, problem)
                raise
            told.checked(findings, made.dockerfile, name)
            return None
        try:
            plan = Plan(made.dockerfile, request.options, name=name)
        except DockerfileError as problem:
            locate(problem.line, problem)
            raise
        told.planned(plan, name, made.dockerfile, made.named)
        if request.plan:
            return None
        if plan.dockerfile.check or told.checks or ARGUMENT in (request.options.build_args or {}):
            findings = await asyncio.to_thread(self._check_plan, plan, made, request)
            if (error := findings.error()) is not None:
                raise error
            told.warn(findings)
        builder = Builder(
            plan,
            made.files,
            contexts=made.named,
            workshop=workshop,
            console=told,
            now=now if epoch is None else lambda: rfc3339_seconds(epoch * _BILLION),
            platform=f"{self._platform.os}/{self._platform.architecture}",
            version=self._version,
        )
        try:
            return await builder.run(), builder.stage_images()
        except OrlopError as problem:
            if builder.failed_at:
                locate(builder.failed_at, problem, builder.failed_step)
            raise
