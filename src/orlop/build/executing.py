"""RUN: the command, its environment and mounts, and what the history and the cache know of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orlop.build.configuring import absolute, command_of, set_environment
from orlop.build.mounts import Mount, parse_mount
from orlop.build.parser import DockerfileError
from orlop.build.steps import CopyPart, RunStep, StepMount, Tree
from orlop.errors import ForbiddenError, InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from orlop.build.configuring import Words
    from orlop.build.instructions import Instruction
    from orlop.build.stage_builder import StageBuilder
    from orlop.build.steps import Step

# Where a here-document that begins with #! is, as in BuildKit: no layer sees it.
_SCRIPTS = "/dev/pipes"


class RunInstruction:
    """One RUN of a stage."""

    def __init__(self, stage: StageBuilder, item: Instruction, words: Words) -> None:
        self._stage = stage
        self._item = item
        self._words = words
        self._inputs: list[object] = []  # what the result depends on beside the words

    async def do(self, step: Step) -> bool:
        """Run it, unless the cache has it, which is returned."""
        stage, item = self._stage, self._item
        image = stage.image
        if image is None:
            raise DockerfileError(item.line, f"RUN needs a root file system, and the stage is empty: {item.original}")
        network = item.flags.get("network", "default").removeprefix("default")
        insecure = item.flags.get("security") == "insecure"
        self._require("network.host", network == "host")
        self._require("security.insecure", insecure)
        if network or insecure:
            self._inputs.append([network, insecure])
        mounts = await self._mounts()
        config = stage.config
        command = command_of(config, item._replace(text=run_text(item)))
        shown = " ".join(command)
        if is_script(item):
            command, shown = (f"{_SCRIPTS}/{item.heredocs[0].name}",), item.heredocs[0].content
            tree = stage.build.workshop.write_files(item.heredocs, mode=0o755)
            mounts.append(StepMount(Mount("bind"), _SCRIPTS, tree))
        names = {entry.partition("=")[0] for entry in config.env or ()}
        known = sorted(f"{name}={value}" for name, value in stage.arguments.known.items() if name not in names)
        hidden = [f"{name}={value}" for name, value in stage.arguments.hidden().items() if name not in names]
        told = " ".join((*((f"|{len(known)}", *known) if known else ()), shown))
        # The container has the configuration so far, of which the image lacks only what FROM added.
        pairs = (entry.partition("=")[::2] for entry in (*known, *hidden))
        env = set_environment(config.env or (), ((name, value) for name, value in pairs))
        run = RunStep(command, env, shown, tuple(mounts), network, insecure)
        inputs = json.dumps(self._inputs) if self._inputs else ""
        return await stage.settle(told, lambda: stage.build.workshop.run(image, run, step), inputs=inputs)

    def _require(self, entitlement: str, asked: bool) -> None:  # noqa: FBT001 - one of two facts about the step
        """Refuse what the user did not allow for this build (threats.md F3): the one place that decides."""
        if asked and entitlement not in self._stage.build.options.allowed:
            raise ForbiddenError(
                f"{entitlement} is not allowed: line {self._item.line}: {self._item.original[:80]}"
                f" (allow it with --allow {entitlement})"
            )

    async def _mounts(self) -> list[StepMount]:
        found: list[StepMount] = []
        agents = 0
        for text in self._item.repeated.get("mount", ()):
            try:
                mount = parse_mount(text, self._words.one)
            except InvalidParameterError as error:
                raise DockerfileError(self._item.line, f"{error}: {self._item.original[:80]}") from None
            if mount is None:
                continue  # never: there is something to expand with
            target = mount.target
            if mount.kind == "ssh":
                target = target or f"/run/buildkit/ssh_agent.{agents}"
                agents += 1
            target = absolute(self._stage.config.working_dir, target) if target else ""
            found.append(await self._settled(mount, target))
        return found

    async def _settled(self, mount: Mount, target: str) -> StepMount:
        """Find what is mounted; a secret's or agent's content is no part of what the cache knows (threats.md F9)."""
        build = self._stage.build
        shape = [mount.kind, target, mount.source, mount.name, mount.readonly, mount.mode, mount.uid, mount.gid]
        self._inputs.append([*shape, mount.size, mount.env])
        if mount.kind not in ("bind", "cache"):
            return StepMount(mount, target)
        if mount.origin:
            tree = await build.tree(mount.origin, self._stage.stage.index)
        elif mount.kind == "bind":
            tree = await build.context.get()
        else:
            return StepMount(mount, target)
        if mount.kind == "bind":
            self._inputs.append(await self._digest(mount, tree))
        return StepMount(mount, target, tree)

    async def _digest(self, mount: Mount, tree: Tree) -> str:
        if tree.image is not None:
            return str(tree.image.id)
        pattern = "".join(f"\\{char}" if char in "*?[\\" else char for char in mount.source)
        try:
            return (await self._stage.build.workshop.examine(CopyPart(tree, (pattern,)))).digest
        except NotFoundError as error:
            raise NotFoundError(f"RUN failed: line {self._item.line}: {error}: {self._item.original[:80]}") from None


def is_script(item: Instruction) -> bool:
    """Tell whether the command is a here-document that says what it is to be run with."""
    alone = len(item.words) == 1 and len(item.heredocs) == 1 and not item.is_json
    return alone and item.heredocs[0].content.startswith("#!")


def run_text(item: Instruction) -> str:
    """Return what the shell gets: a here-document alone is the script itself; others stand below the command."""
    if item.is_json or not item.heredocs:
        return item.text
    if len(item.words) == 1:
        return item.heredocs[0].content
    return item.text + "".join(f"\n{doc.content}{doc.name}" for doc in item.heredocs)
