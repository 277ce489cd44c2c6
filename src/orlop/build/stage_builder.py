"""One stage of a build: steps in order, out of the cache or done, each an image on the one before.

A step's key is the digest of its parent's id, its words after expansion, the digest of the files it copies or mounts,
and the whole configuration that it leads to. Keys are only ever written here, so no pulled image is taken for one that
was built (threats.md F5, CVE-2024-24557).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from orlop.build.arguments import StageArguments
from orlop.build.configuring import DEFAULT_SHELL, Words, configure, working_directory
from orlop.build.copying import CopyInstruction
from orlop.build.executing import RunInstruction
from orlop.build.instructions import read_trigger
from orlop.build.parser import DockerfileError
from orlop.build.steps import CopyStep, Layer, Tree
from orlop.errors import InvalidParameterError, OrlopError
from orlop.spec.image import ContainerDefaults, History, ImageConfig, render_defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    from orlop.build.arguments import Arguments
    from orlop.build.instructions import Instruction
    from orlop.build.stages import Stage, StageNames
    from orlop.build.steps import BuildOptions, Console, Step, TreeSource, Workshop
    from orlop.image.records import Image

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOTHING = Layer(None, None)


@dataclass(slots=True, eq=False)
class Build:
    """What the stages of one build share; the names are those of :class:`orlop.build.builder.Builder`.

    Attributes:
        flights: held over a step of this key while it is done: another stage's same step takes the result.
        images: of the stages that are built.
        failed_at: line of the step that failed first; 0 for none.
        failed_step: its number.
    """

    options: BuildOptions
    names: StageNames
    context: TreeSource
    contexts: Mapping[str, TreeSource]
    escape: str
    workshop: Workshop
    console: Console
    now: Callable[[], str]
    platform: str
    version: str
    arguments: Arguments
    flights: dict[str, asyncio.Lock] = field(default_factory=dict)
    images: dict[int, asyncio.Future[Image | None]] = field(default_factory=dict)
    failed_at: int = 0
    failed_step: int = 0

    def begin(self, stage: Stage) -> None:
        """Say that a stage will be built."""
        self.images[stage.index] = asyncio.get_running_loop().create_future()

    def finish(self, stage: Stage, image: Image | None) -> None:
        """Give a stage's image to those who wait for it."""
        self.images[stage.index].set_result(image)

    def built(self) -> list[Image]:
        """Return the images of the stages that are built."""
        built = [future.result() for future in self.images.values() if future.done() and not future.cancelled()]
        return [image for image in built if image is not None]

    def give_up(self, stage: Stage) -> None:
        """Say that there will be none."""
        self.images[stage.index].cancel()

    async def image_of(self, stage: Stage) -> Image | None:
        """Wait until a stage is built; None: it is empty."""
        return await asyncio.shield(self.images[stage.index])

    async def tree(self, name: str, before: int) -> Tree:
        """Return what ``--from`` names for the stage ``before``: a context, an earlier stage, or an image."""
        if name in self.contexts:
            return await self.contexts[name].get()
        stage = self.names.find(name, before)
        if stage is not None and stage.index in self.images:
            return Tree(image=await self.image_of(stage))
        if stage is not None:  # only a trigger of a base image can name what was not seen to be needed
            raise InvalidParameterError(f"a trigger of the base image names a stage that is not built: {name}")
        if name == "scratch":
            return Tree()
        if name.isascii() and name.isdigit():
            raise InvalidParameterError(f"invalid from flag value {name}: index out of bounds")
        return Tree(image=await self.workshop.base_image(name, pull=False, platform=self.options.platform))


class StageBuilder:
    """Builds one stage."""

    def __init__(self, build: Build, stage: Stage) -> None:
        self.build = build
        self.stage = stage
        self.arguments = StageArguments(build.arguments)
        self.image: Image | None = None
        self.config = ContainerDefaults()
        self._base = ImageConfig("", "")
        self._author = ""
        self._cmd_set = False
        options = build.options
        self._fresh = options.no_cache or bool({stage.name, str(stage.index)} & options.no_cache_stages)

    async def run(self, items: Sequence[Instruction], steps: Sequence[Step]) -> Image | None:
        """Carry out FROM and ``items``, of which ``steps`` tells. Raises OrlopError."""
        console, workshop = self.build.console, self.build.workshop
        console.begin(steps[0])
        with self._located(self.stage.start, steps[0]):
            await self._begin()
            self._tell_image(steps[0])
            await self._run_triggers(steps[0])
        console.end(steps[0])
        for item, step in zip(items, steps[1:], strict=True):
            console.begin(step)
            with self._located(item, step):
                cached = await self._do(item, step)
            await workshop.end_step(step)
            self._tell_image(step, cached=cached)
            console.end(step)
        return self.image

    @contextlib.contextmanager
    def _located(self, item: Instruction, step: Step) -> Iterator[None]:
        """Note the line of what fails."""
        try:
            yield
        except OrlopError:
            if not self.build.failed_step:
                self.build.failed_at, self.build.failed_step = item.line, step.number
            raise

    def _tell_image(self, step: Step, *, cached: bool = False) -> None:
        self.build.console.result(step, "" if self.image is None else self.image.id.hex[:12], cached=cached)

    async def _begin(self) -> None:
        build, stage = self.build, self.stage
        words = Words(build.arguments.before_stages, build.escape)
        name = words.one(stage.base)
        if not name:
            raise DockerfileError(stage.start.line, f"base name ({stage.base}) should not be blank")
        platform = words.one(stage.start.flags.get("platform", "")) or build.options.platform
        earlier = build.names.named(name, stage.index)
        if earlier is not None:
            self.image = await build.image_of(earlier)
        elif name in build.contexts:
            self.image = (await build.contexts[name].get()).image
            if self.image is None:
                raise DockerfileError(stage.start.line, f"the context is no image: {name}")
        elif name != "scratch":
            self.image = await build.workshop.base_image(name, pull=build.options.pull, platform=platform)
        if self.image is None:
            system, _, machine = (platform or build.platform).partition("/")
            machine, _, variant = machine.partition("/")
            self._base = ImageConfig(machine, system, variant=variant)
        else:
            self._base = self.image.config
        self.config = self._base.config
        env = self.config.env or ()
        if not any(entry.startswith("PATH=") for entry in env):
            self.config = replace(self.config, env=(*env, DEFAULT_PATH))

    async def _run_triggers(self, step: Step) -> None:
        triggers = self.config.on_build or ()
        if not triggers:
            return
        self.config = replace(self.config, on_build=None)
        ending = "s" if len(triggers) > 1 else ""
        self.build.console.say(step, f"# Executing {len(triggers)} build trigger{ending}\n")
        for text in triggers:
            cached = await self._do(read_trigger(text), step)
            await self.build.workshop.end_step(step)
            self._tell_image(step, cached=cached)

    @property
    def variables(self) -> Mapping[str, str]:
        """What words are expanded with."""
        env = dict(entry.partition("=")[::2] for entry in self.config.env or ())
        return {**self.arguments.known, **env}

    async def _do(self, item: Instruction, step: Step) -> bool:
        """Carry out an instruction; tells whether its image came from the cache."""
        words = Words(self.variables, self.build.escape)
        if item.name == "RUN":
            return await RunInstruction(self, item, words).do(step)
        if item.name in ("COPY", "ADD"):
            return await CopyInstruction(self, item, words).do()
        if item.name == "WORKDIR":
            path = working_directory(self.config, item, words)
            self.config = replace(self.config, working_dir=path)
            owner = self.config.user if self.build.options.like_buildkit else ""
            place = CopyStep((), path, owner=owner, of_user=True)
            work = partial(self.build.workshop.copy, self.image, place)
            return await self.settle(self.nop(f"WORKDIR {path}"), work, variant=owner)
        if item.name == "ARG":
            return await self.settle(self.nop(self._declare(item, words)))
        if item.name == "MAINTAINER":
            self._author = item.text
            return await self.settle(self.nop(f" MAINTAINER {self._author}"))
        self.config, told = configure(self.config, item, words, cmd_set=self._cmd_set)
        self._cmd_set = self._cmd_set or item.name == "CMD"
        return await self.settle(self.nop(f" {told}"))

    def _declare(self, item: Instruction, words: Words) -> str:
        told = []
        for name, default in item.pairs:
            value = None if default is None else words.one(default)
            self.arguments.declare(name, value)
            told.append(name if value is None else f"{name}={value}")
        return " ".join((" ARG", *told))

    def nop(self, comment: str) -> str:
        """Return what the history has of a step that runs nothing."""
        return f"{' '.join(self.config.shell or DEFAULT_SHELL)} #(nop) {comment}"

    async def settle(
        self,
        told: str,
        work: Callable[[], Coroutine[None, None, Layer]] | None = None,
        *,
        inputs: str = "",
        variant: str = "",
        apart: str = "",
    ) -> bool:
        """Take the step's image from the cache, or do the work and make the image.

        Args:
            told: the step in the history.
            work: makes the layer; None for none.
            inputs: what the result depends on beside the words.
            variant: how the words are meant, where that can be otherwise; an image that the user named may have either.
            apart: with the words, all that the layer depends on: it is the same one on another image; empty for a layer
                that depends on the image.

        Returns:
            Whether the image came from the cache.
        """
        keys = [self._key(told, inputs, variant), *([self._key_apart(told, apart)] if apart else [])]
        key = keys[0]
        if self._fresh:
            await self._make(keys, told, work)
            return False
        similar = None if inputs else self.build.workshop.find_similar(self._base, told, self._author)
        if similar is not None:
            await self._take(self._step_config(told, similar[1], similar[0]), similar[1])
            return True
        # Two stages with the same step: the second takes what the first made.
        async with self.build.flights.setdefault(key, asyncio.Lock()):
            cached = self.build.workshop.find_cached(key)
            if cached is None and len(keys) > 1 and await self._put_again(keys, told):
                return True
            if cached is None:
                await self._make(keys, told, work)
                return False
        self.image, self._base, self.config = cached, cached.config, cached.config.config
        return True

    async def _make(
        self, keys: Sequence[str], told: str, work: Callable[[], Coroutine[None, None, Layer]] | None
    ) -> None:
        layer = _NOTHING if work is None else await work()
        image = await self._take(self._step_config(told, layer), layer)
        for key in keys:
            self.build.workshop.keep_cached(key, image)

    async def _put_again(self, keys: Sequence[str], told: str) -> bool:
        """Take the layer that the same step gave on another image; tells whether there is one."""
        lender = self.build.workshop.find_cached(keys[1])
        if lender is None or lender.config.history[-1].empty_layer:
            return False
        layer = await self.build.workshop.put_again(lender, self.image)
        if layer is None:
            return False
        image = await self._take(self._step_config(told, layer), layer)
        self.build.workshop.keep_cached(keys[0], image)
        return True

    async def _take(self, config: ImageConfig, layer: Layer) -> Image:
        """Make the step's image, on which the next one stands."""
        self.image = await self.build.workshop.commit(self.image, config, layer)
        self._base = self.image.config
        return self.image

    def _step_config(self, told: str, layer: Layer, known: History | None = None) -> ImageConfig:
        created = self.build.now() if known is None else known.created
        step = known or History(created, told, self._author, "", empty_layer=layer.diff_id is None)
        diff_ids = self._base.diff_ids if layer.diff_id is None else (*self._base.diff_ids, layer.diff_id)
        return replace(
            self._base,
            config=self.config,
            diff_ids=diff_ids,
            history=(*self._base.history, step),
            created=created,
            author=self._author,
            comment="",
            docker_version=self.build.version,
            container=layer.container,
        )

    def _key(self, told: str, inputs: str, variant: str) -> str:
        parent = "" if self.image is None else str(self.image.id)
        parts = [parent, told, self._author, self._base.os, self._base.architecture, self._base.variant]
        parts += [inputs] if inputs else []
        parts += [f"variant {variant}"] if variant else []
        parts += [] if self.build.options.epoch is None else [f"epoch {self.build.options.epoch}"]
        return _digest([*parts, render_defaults(self.config)])

    def _key_apart(self, told: str, apart: str) -> str:
        """Return the key of a layer that does not depend on the image below; no key of a step looks like it."""
        return _digest({"layer": [told, apart, self.build.options.epoch]})


def _digest(document: object) -> str:
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
