"""A Dockerfile becomes an image: a graph of stages, each a chain of steps, each step an image on the one before.

::

    text ──▶ instructions ──▶ needed stages ──▶ each in a task of its own ──▶ the last one's image
                                     waits for another stage where it names it: FROM, COPY --from, RUN --mount

Stages only ever name earlier ones, so nothing can wait in a circle.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orlop.build.arguments import Arguments
from orlop.build.configuring import Words
from orlop.build.copying import wants_context
from orlop.build.instructions import Instruction, read_instructions
from orlop.build.parser import parse
from orlop.build.stage_builder import Build, StageBuilder
from orlop.build.stages import StageNames, needed_stages, split_stages
from orlop.build.steps import BuildOptions, Console, Step, TreeSource, Workshop
from orlop.errors import InvalidParameterError, OrlopError
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.build.stages import Stage
    from orlop.image.records import Image


class Plan:
    """A checked Dockerfile: what can be wrong about it was said when it was made.

    Args:
        data: the text.
        options: of the build.
        name: of the file, for messages.
        platform: of this machine, ``linux/amd64``.

    Raises:
        DockerfileError, InvalidParameterError: in Docker's words.
    """

    def __init__(self, data: bytes, options: BuildOptions, *, name: str = "Dockerfile", platform: str = "") -> None:
        self.options = options
        self.dockerfile = parse(data, name=name)
        self.escape = self.dockerfile.escape
        self.instructions = read_instructions(self.dockerfile)
        self.meta, self.stages = split_stages(self.instructions)
        self.platform = platform or str(Platform.host())
        self.names = StageNames(self.stages)
        last = len(self.stages)
        chosen = self.names.find(options.target, last) if options.target else self.stages[-1]
        self.arguments = Arguments(
            options.build_args or {},
            build=self.platform,
            target=options.platform or self.platform,
            stage=(chosen.name if chosen else "") or "default",
        )
        for item in self.meta:
            for variable, default in item.pairs:
                value = None if default is None else self._words.one(default)
                self.arguments.declare_global(variable, value)
        self.needed = needed_stages(self.stages, options.target, base_of=self.base_of)
        labels = sorted((options.labels or {}).items())
        self.labels = tuple(_label(name, value) for name, value in labels)
        steps = sum(1 + len(stage.instructions) for stage in self.needed)
        self.count = len(self.meta) + steps + len(self.labels)

    def base_of(self, stage: Stage) -> str:
        """Return what a stage's FROM names."""
        return self._words.one(stage.base)

    @property
    def _words(self) -> Words:
        return Words(self.arguments.before_stages, self.escape)


def _label(name: str, value: str) -> Instruction:
    quoted = tuple("'" + text.replace("'", "'\"'\"'") + "'" for text in (name, value))
    return Instruction(0, "LABEL", "", f"LABEL {name}={value}", {}, pairs=((quoted[0], quoted[1]),))


class Builder:
    """Carries out one plan.

    Args:
        plan: what to do.
        context: the user's files.
        contexts: further trees by the names that FROM, ``--from`` and mounts know them by, before images and stages.
        workshop: does the steps.
        console: is told of them.
        now: the time as images have it.
        version: what images record as the engine that made them.
    """

    def __init__(
        self,
        plan: Plan,
        context: TreeSource,
        *,
        workshop: Workshop,
        console: Console,
        now: Callable[[], str],
        version: str,
        platform: str = "",
        contexts: Mapping[str, TreeSource] | None = None,
    ) -> None:
        self._plan = plan
        self._build = Build(
            plan.options,
            plan.names,
            context,
            contexts=contexts or {},
            escape=plan.escape,
            workshop=workshop,
            console=console,
            now=now,
            platform=platform or plan.platform,
            version=version,
            arguments=plan.arguments,
        )

    async def run(self) -> Image:
        """Build. Raises OrlopError, in Docker's words where Docker has some."""
        plan, build = self._plan, self._build
        number = 0
        for item in plan.meta:
            number += 1
            step = Step(number, plan.count, "", item.original)
            build.console.begin(step)
            build.console.end(step)
        tasks: list[asyncio.Future[Image | None]] = []
        if any(wants_context(item) for stage in plan.needed for item in stage.instructions):
            tasks.append(asyncio.ensure_future(_begin_early(build.context)))
        for stage in plan.needed:
            build.begin(stage)
        for stage in plan.needed:
            last = stage is plan.needed[-1]
            items = (*stage.instructions, *(plan.labels if last else ()))
            tasks.append(asyncio.ensure_future(self._build_stage(stage, items, first=number + 1)))
            number += 1 + len(items)
        await _finish(tasks)
        if unused := build.arguments.unused():
            build.console.say(None, f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        image = tasks[-1].result()
        if image is None:
            raise InvalidParameterError("No image was generated. Is your Dockerfile empty?")
        return image

    @property
    def failed_at(self) -> int:
        """The line of the step that failed, 0 for none or one that is in no file."""
        return self._build.failed_at

    @property
    def failed_step(self) -> int:
        """The number of the step that failed, 0 for none."""
        return self._build.failed_step

    def stage_images(self) -> list[Image]:
        """Return what the stages gave, after :meth:`run`; empty ones are left out."""
        return self._build.built()

    async def _build_stage(self, stage: Stage, items: Sequence[Instruction], *, first: int) -> Image | None:
        builder = StageBuilder(self._build, stage)
        title = stage.name or str(stage.index)
        steps = [
            Step(first + offset, self._plan.count, title, item.original)
            for offset, item in enumerate((stage.start, *items))
        ]
        try:
            image = await builder.run(items, steps)
        except BaseException:
            self._build.give_up(stage)
            raise
        self._build.finish(stage, image)
        return image


async def _begin_early(context: TreeSource) -> None:
    """Have the context come while base images do and first steps run; the step that wants it tells why it did not."""
    with contextlib.suppress(OrlopError):
        await context.get()


async def _finish(tasks: Sequence[asyncio.Future[Image | None]]) -> None:
    """Wait for all; when one fails, cancel the others, wait for their end, and raise what came first."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        # what waited for the one that failed was cancelled with it
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
