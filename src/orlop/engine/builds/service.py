"""``docker build``: a context comes in, an image comes out, and nothing else is left.

::

    <data-root>/builds/<hex>/             0700   one build; removed with it, or at the next start
      context/                                   the user's files
      archive-<hex>/, files-<hex>/               what ADD unpacked, here-documents
    <exec-root>/builds/<hex>/             0700   what its steps mount of the client's (mounting.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.build.builder import Builder, Plan
from orlop.build.ignore import parse_ignore
from orlop.build.parser import SIZE_LIMIT
from orlop.build.steps import BuildOptions, NoSecrets, StepFailedError, Tree
from orlop.engine.builds.output import BuildOutput
from orlop.engine.builds.running import Runner, host_config
from orlop.engine.builds.workshop import EngineWorkshop, Tools
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError
from orlop.image.feed import pour
from orlop.image.importer import now, parse_name
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root
from orlop.primitives.tar import Limits
from orlop.spec.docker.containers import HostConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from orlop.engine.containers import ContainerService
    from orlop.engine.events import Events
    from orlop.engine.registry.output import Output
    from orlop.image.store import Image
    from orlop.registry.credentials import Credentials
    from orlop.spec.platform import Platform

_READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
RunLimits = HostConfig


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asked for.

    Attributes:
        options: of the builder.
        dockerfile: its path in the context.
        tags: names of the image.
        quiet: tell only the image's id.
        limits: of the containers of steps.
        credentials: for pulls, by the registry's domain.
    """

    options: BuildOptions
    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    quiet: bool = False
    limits: RunLimits = field(default_factory=HostConfig)
    credentials: Mapping[str, Credentials] = field(default_factory=dict)


class BuildService:
    """The use case.

    Args:
        tools: the engine's parts that steps are done with.
        containers: run the steps.
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
        events: Events,
        directory: str,
        private: str,
        platform: Platform,
        version: str,
    ) -> None:
        self._tools = tools
        self._containers = containers
        self._events = events
        self._directory = directory
        self._private = private
        self._platform = platform
        self._version = version

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

    def prune(self, *, until: str | None = None) -> list[str]:
        """Forget which step gave which image, made before ``until``; the images stay.

        Returns the ids of images that still are there.
        """
        made = {image.id.hex: image.config.created for image in self._tools.images.store.images()}
        records = self._tools.records
        chosen = [image for image in records.images() if until is None or made.get(image, "") < until]
        records.forget(chosen)
        self._events.publish("builder", "prune", "", {"reclaimed": "0"})
        return [image for image in chosen if image in made]

    async def build(self, request: BuildRequest, context: AsyncIterator[bytes], output: Output) -> None:
        """Build and name an image.

        Raises:
            InvalidParameterError, NotFoundError and others: in Docker's words. A command that failed is told in the
                output instead, with its code.
        """
        tags = [tag for text in request.tags if (tag := parse_name(text, "")) is not None]
        told = BuildOutput(output, quiet=request.quiet)
        directory = f"{self._directory}/{secrets.token_hex(12)}"
        os.mkdir(directory, 0o700)
        runner = Runner(self._containers, self._tools.records, host=host_config(request.limits), output=told)
        try:
            image = await self._run(request, context, directory=directory, runner=runner, told=told)
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
        told.finish(str(image.id))
        for tag in tags:
            self._tools.images.tag(str(image.id), str(tag), "")
            told.tagged(tag.familiar)

    async def _run(
        self, request: BuildRequest, context: AsyncIterator[bytes], *, directory: str, runner: Runner, told: BuildOutput
    ) -> Image:
        root = f"{directory}/context"
        os.mkdir(root, 0o700)
        await pour(context, lambda fd: self._tools.spawner.unpack(root, fd, Limits(), plain=True))
        data = await asyncio.to_thread(_read_dockerfile, root, request.dockerfile)
        plan = Plan(data, request.options, name=os.path.basename(request.dockerfile))
        workshop = EngineWorkshop(
            self._tools,
            directory,
            runner=runner,
            output=told,
            credentials=request.credentials,
            remove=request.options.remove,
            private=f"{self._private}/{os.path.basename(directory)}",
            client=NoSecrets(),
        )
        builder = Builder(
            plan,
            Tree(directory=root),
            workshop=workshop,
            console=told,
            now=now,
            platform=f"{self._platform.os}/{self._platform.architecture}",
            version=self._version,
        )
        return await builder.run()


def _read_dockerfile(root: str, path: str) -> bytes:
    """Read the Dockerfile, resolved in the context; then take it and .dockerignore away if they are to be ignored."""
    with OwnedFd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        try:
            data = _read(top, path)
        except FileNotFoundError:
            message = f"failed to read dockerfile: open {path}: no such file or directory"
            raise NotFoundError(f"Cannot locate specified Dockerfile: {path}" if path else message) from None
        try:
            rules = parse_ignore(_read(top, ".dockerignore").decode("utf-8", "replace"))
        except FileNotFoundError:
            return data
        for name in (path, ".dockerignore"):
            clean = os.path.normpath(f"/{name}").lstrip("/")
            if rules.ignores(clean):
                head, _, last = clean.rpartition("/")
                with open_in_root(top.fileno(), head or ".", os.O_PATH | os.O_DIRECTORY) as parent:
                    os.unlink(last, dir_fd=parent.fileno())
    return data


def _read(top: OwnedFd, path: str) -> bytes:
    if "\0" in path:
        raise InvalidParameterError("the Dockerfile's path holds a NUL")
    with open_in_root(top.fileno(), path, _READ_FILE) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidParameterError(f"not a regular file: {path}")
        data = bytearray()
        while len(data) <= SIZE_LIMIT and (piece := os.read(file.fileno(), SIZE_LIMIT)):
            data += piece
    return bytes(data)
