"""A Dockerfile becomes an image: stages in order, steps out of the cache or done, each an image on the one before.

::

    text ──▶ instructions ──▶ needed stages ──▶ per step: key ──▶ cached? ──▶ layer (Workshop) ──▶ config ──▶ image

A step's key is the digest of its parent's id, its words after expansion, the digest of the files it copies, and the
whole configuration that it leads to. Keys are only ever written here, so no pulled image is taken for one that was
built (threats.md F5, CVE-2024-24557).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.build.arguments import Arguments
from orlop.build.configuring import (
    DEFAULT_SHELL,
    Words,
    command_of,
    configure,
    set_environment,
    working_directory,
)
from orlop.build.copying import copy_mode, copy_place, is_remote
from orlop.build.instructions import Instruction, read_instructions, read_trigger
from orlop.build.parser import DockerfileError, parse
from orlop.build.stages import find_named, find_stage, needed_stages, split_stages
from orlop.build.steps import BuildOptions, Console, CopyStep, Gathered, Layer, RunStep, Tree, Workshop
from orlop.errors import InvalidParameterError, NotFoundError
from orlop.spec.image import ContainerDefaults, History, ImageConfig, render_defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from orlop.build.stages import Stage
    from orlop.image.store import Image

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOTHING = Layer(None, None)


class Plan:
    """A checked Dockerfile: what can be wrong about it was said when it was made.

    Raises:
        DockerfileError, InvalidParameterError: in Docker's words.
    """

    def __init__(self, data: bytes, options: BuildOptions, *, name: str = "Dockerfile") -> None:
        self.options = options
        dockerfile = parse(data, name=name)
        self.escape = dockerfile.escape
        self.meta, self.stages = split_stages(read_instructions(dockerfile))
        self.needed = needed_stages(self.stages, options.target)
        labels = sorted((options.labels or {}).items())
        self.labels = tuple(_label(name, value) for name, value in labels)
        steps = sum(1 + len(stage.instructions) for stage in self.needed)
        self.count = len(self.meta) + steps + len(self.labels)


def _label(name: str, value: str) -> Instruction:
    quoted = tuple("'" + text.replace("'", "'\"'\"'") + "'" for text in (name, value))
    return Instruction(0, "LABEL", "", f"LABEL {name}={value}", {}, pairs=((quoted[0], quoted[1]),))


class Builder:
    """Carries out one plan.

    Args:
        plan: what to do.
        context: the user's files.
        workshop: does the steps.
        console: is told of them.
        now: the time as images have it.
        platform: of this machine, ``linux/amd64``.
        version: what images record as the engine that made them.
    """

    def __init__(
        self,
        plan: Plan,
        context: Tree,
        *,
        workshop: Workshop,
        console: Console,
        now: Callable[[], str],
        platform: str,
        version: str,
    ) -> None:
        self._plan = plan
        self._context = context
        self._workshop = workshop
        self._console = console
        self._now = now
        self._platform = platform
        self._version = version
        self._arguments = Arguments(plan.options.build_args or {}, platform)
        self._built: dict[int, Image | None] = {}
        self._step = 0
        self._image: Image | None = None
        self._base = ImageConfig("", "")
        self._config = ContainerDefaults()
        self._author = ""
        self._cmd_set = False
        self._stage: Stage | None = None

    async def run(self) -> Image:
        """Build. Raises OrlopError, in Docker's words where Docker has some."""
        for item in self._plan.meta:
            self._tell(item)
            for name, default in item.pairs:
                value = None if default is None else Words(self._arguments.before_stages).one(default)
                self._arguments.declare_global(name, value)
        for stage in self._plan.needed:
            await self._build_stage(stage, last=stage is self._plan.needed[-1])
        if unused := self._arguments.unused():
            self._console.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        if self._image is None:
            raise InvalidParameterError("No image was generated. Is your Dockerfile empty?")
        return self._image

    def _tell(self, item: Instruction) -> None:
        self._step += 1
        self._console.say(f"Step {self._step}/{self._plan.count} : {item.original}")
        self._console.say("\n")

    def _tell_image(self) -> None:
        self._console.say(f" ---> {'' if self._image is None else self._image.id.hex[:12]}\n")

    async def _build_stage(self, stage: Stage, *, last: bool) -> None:
        self._stage = stage
        self._arguments.begin_stage()
        self._tell(stage.start)
        await self._begin(stage)
        self._tell_image()
        await self._run_triggers()
        for item in (*stage.instructions, *(self._plan.labels if last else ())):
            self._tell(item)
            await self._do(item)
            await self._workshop.end_step()
            self._tell_image()
        self._built[stage.index] = self._image

    async def _begin(self, stage: Stage) -> None:
        words = Words(self._arguments.before_stages, self._plan.escape)
        name = words.one(stage.base)
        if not name:
            raise DockerfileError(stage.start.line, f"base name ({stage.base}) should not be blank")
        platform = words.one(stage.start.flags.get("platform", "")) or self._plan.options.platform
        earlier = find_named(self._plan.stages[: stage.index], stage.base)
        if earlier is not None:
            self._image = self._built[earlier.index]
        elif name == "scratch":
            self._image = None
        else:
            self._image = await self._workshop.base_image(name, pull=self._plan.options.pull, platform=platform)
        self._cmd_set = False
        if self._image is None:
            system, _, machine = self._platform.partition("/")
            self._base = ImageConfig(machine, system)
        else:
            self._base = self._image.config
        self._author = ""
        self._config = self._base.config
        env = self._config.env or ()
        if not any(entry.startswith("PATH=") for entry in env):
            self._config = replace(self._config, env=(*env, DEFAULT_PATH))

    async def _run_triggers(self) -> None:
        triggers = self._config.on_build or ()
        if not triggers:
            return
        self._config = replace(self._config, on_build=None)
        self._console.say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        for text in triggers:
            await self._do(read_trigger(text))
            await self._workshop.end_step()
            self._tell_image()

    @property
    def _variables(self) -> Mapping[str, str]:
        env = dict(entry.partition("=")[::2] for entry in self._config.env or ())
        return {**self._arguments.in_stage, **env}

    async def _do(self, item: Instruction) -> None:
        words = Words(self._variables, self._plan.escape)
        if item.name == "RUN":
            await self._do_run(item)
        elif item.name in ("COPY", "ADD"):
            await self._do_copy(item, words)
        elif item.name == "WORKDIR":
            path = working_directory(self._config, item, words)
            self._config = replace(self._config, working_dir=path)
            step = CopyStep(Tree(), (), path)
            await self._settle(self._nop(f"WORKDIR {path}"), lambda: self._workshop.copy(self._image, step))
        elif item.name == "ARG":
            await self._settle(self._nop(self._declare(item, words)))
        elif item.name == "MAINTAINER":
            self._author = words.one(item.text)
            await self._settle(self._nop(f" MAINTAINER {self._author}"))
        else:
            self._config, told = configure(self._config, item, words, cmd_set=self._cmd_set)
            self._cmd_set = self._cmd_set or item.name == "CMD"
            await self._settle(self._nop(f" {told}"))

    def _declare(self, item: Instruction, words: Words) -> str:
        told = []
        for name, default in item.pairs:
            value = None if default is None else words.one(default)
            self._arguments.declare(name, value)
            told.append(name if value is None else f"{name}={value}")
        return " ".join((" ARG", *told))

    def _nop(self, comment: str) -> str:
        return f"{' '.join(self._config.shell or DEFAULT_SHELL)} #(nop) {comment}"

    async def _do_run(self, item: Instruction) -> None:
        if self._image is None:
            raise DockerfileError(item.line, f"RUN needs a root file system, and the stage is empty: {item.original}")
        command = command_of(self._config, replace(item, text=run_text(item)))
        names = {entry.partition("=")[0] for entry in self._config.env or ()}
        known = sorted(f"{name}={value}" for name, value in self._arguments.in_stage.items() if name not in names)
        hidden = [f"{name}={value}" for name, value in self._arguments.hidden().items() if name not in names]
        told = " ".join((*((f"|{len(known)}", *known) if known else ()), *command))
        image = self._image
        # The container has the configuration so far, of which the image lacks only what FROM added.
        env: tuple[str, ...] = ()
        for entry in (*(self._config.env or ()), *known, *hidden):
            name, _, value = entry.partition("=")
            env = set_environment(env, name, value)
        step = RunStep(command, env, " ".join(command))
        await self._settle(told, lambda: self._workshop.run(image, step))

    async def _do_copy(self, item: Instruction, words: Words) -> None:
        *named, place = [words.one(word) for word in item.words]
        origin = item.flags.get("from", "")
        marks = (
            [word for word in item.words[:-1] if not item.is_json and word.startswith("<<")] if item.heredocs else []
        )
        if marks and len(marks) != len(named):
            raise DockerfileError(item.line, f"here-documents beside files are not supported yet: {item.original}")
        if item.name == "ADD" and any(map(is_remote, named)):
            raise DockerfileError(item.line, f"ADD of a URL is not supported yet: {item.original}")
        if marks:
            docs = [
                doc if not doc.expand else replace(doc, content=_expand_lines(doc.content, words))
                for doc in item.heredocs
            ]
            source, named = self._workshop.write_files(docs), [doc.name for doc in docs]
        else:
            source = await self._origin(origin) if origin else self._context
        owner = words.one(item.flags.get("chown", ""))
        keep = bool(origin) and not owner
        try:
            found = await self._workshop.examine(source, named, keep_owner=keep)
        except NotFoundError as error:
            where = (
                ""
                if origin or str(error).startswith("no ")
                else "file not found in build context or excluded by .dockerignore: "
            )
            raise NotFoundError(f"{item.name} failed: {where}{error}") from None
        shown, place = place, copy_place(self._config, place)
        if found.sources > 1 and not place.endswith("/"):
            where = "the destination must be a directory and end with a /"
            raise InvalidParameterError(f"When using {item.name} with more than one source file, {where}")
        mode = copy_mode(item, words)
        step = CopyStep(source, tuple(named), place, owner=owner, keep_owner=keep, mode=mode)
        kind = "multi" if found.sources > 1 else "dir" if found.directory else "file"
        flags = [
            f"--{name}={value}" for name, value in (("chown", owner), ("chmod", item.flags.get("chmod", ""))) if value
        ]
        told = " ".join((item.name, *flags, f"{kind}:{found.digest}", "in", shown, ""))
        await self._settle(self._nop(told), lambda: self._copy(item, step, found))

    async def _copy(self, item: Instruction, step: CopyStep, found: Gathered) -> Layer:
        if item.name == "ADD" and not item.heredocs:
            for path in found.files:
                archive = await self._workshop.open_archive(step.source, path)
                if archive is None:
                    continue
                if found.sources > 1:
                    raise DockerfileError(
                        item.line, f"ADD of an archive beside other files is not supported yet: {path}"
                    )
                place = step.destination.rstrip("/") + "/"
                step = replace(step, source=archive, patterns=(".",), keep_owner=True, destination=place)
        return await self._workshop.copy(self._image, step)

    async def _origin(self, name: str) -> Tree:
        stage = find_stage(self._plan.stages[: self._stage.index if self._stage else 0], name)
        if stage is not None:
            return Tree(image=self._built[stage.index])
        return Tree(image=await self._workshop.base_image(name, pull=False, platform=self._plan.options.platform))

    async def _settle(self, told: str, work: Callable[[], Coroutine[None, None, Layer]] | None = None) -> None:
        """Take the step's image from the cache, or do the work and make the image."""
        key = self._key(told)
        cached = None if self._plan.options.no_cache else self._workshop.find_cached(key)
        if cached is not None:
            self._console.say(" ---> Using cache\n")
            self._image, self._base, self._config = cached, cached.config, cached.config.config
            return
        layer = _NOTHING if work is None else await work()
        image = self._workshop.commit(self._image, self._step_config(told, layer), layer)
        self._workshop.keep_cached(key, image)
        self._image, self._base = image, image.config

    def _step_config(self, told: str, layer: Layer) -> ImageConfig:
        created = self._now()
        step = History(created, told, self._author, "", empty_layer=layer.diff_id is None)
        diff_ids = self._base.diff_ids if layer.diff_id is None else (*self._base.diff_ids, layer.diff_id)
        return replace(
            self._base,
            config=self._config,
            diff_ids=diff_ids,
            history=(*self._base.history, step),
            created=created,
            author=self._author,
            comment="",
            docker_version=self._version,
            container=layer.container,
        )

    def _key(self, told: str) -> str:
        parent = "" if self._image is None else str(self._image.id)
        parts = [parent, told, self._author, self._base.os, self._base.architecture, self._base.variant]
        data = json.dumps([*parts, render_defaults(self._config)], sort_keys=True)
        return hashlib.sha256(data.encode("utf-8", "surrogateescape")).hexdigest()


def run_text(item: Instruction) -> str:
    """Return what the shell gets: a here-document alone is the script itself; others stand below the command."""
    if item.is_json or not item.heredocs:
        return item.text
    if len(item.words) == 1:
        return item.heredocs[0].content
    return item.text + "".join(f"\n{doc.content}{doc.name}" for doc in item.heredocs)


def _expand_lines(text: str, words: Words) -> str:
    """Put variables into a here-document; quotes are plain characters there."""
    return words.one(text.replace("'", "\\'").replace('"', '\\"')) if "$" in text else text
