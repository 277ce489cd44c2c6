"""RUN: the command, its environment, and what the history and the cache know of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.build.configuring import command_of, set_environment
from orlop.build.parser import DockerfileError
from orlop.build.steps import RunStep

if TYPE_CHECKING:
    from orlop.build.configuring import Words
    from orlop.build.instructions import Instruction
    from orlop.build.stage_builder import StageBuilder
    from orlop.build.steps import Step


class RunInstruction:
    """One RUN of a stage."""

    def __init__(self, stage: StageBuilder, item: Instruction, words: Words) -> None:
        self._stage = stage
        self._item = item
        self._words = words

    async def do(self, step: Step) -> bool:
        """Run it, unless the cache has it, which is returned."""
        stage, item = self._stage, self._item
        image = stage.image
        if image is None:
            raise DockerfileError(item.line, f"RUN needs a root file system, and the stage is empty: {item.original}")
        config = stage.config
        command = command_of(config, replace(item, text=run_text(item)))
        names = {entry.partition("=")[0] for entry in config.env or ()}
        known = sorted(f"{name}={value}" for name, value in stage.arguments.known.items() if name not in names)
        hidden = [f"{name}={value}" for name, value in stage.arguments.hidden().items() if name not in names]
        told = " ".join((*((f"|{len(known)}", *known) if known else ()), *command))
        # The container has the configuration so far, of which the image lacks only what FROM added.
        env: tuple[str, ...] = ()
        for entry in (*(config.env or ()), *known, *hidden):
            name, _, value = entry.partition("=")
            env = set_environment(env, name, value)
        run = RunStep(command, env, " ".join(command))
        return await stage.settle(told, lambda: stage.build.workshop.run(image, run, step))


def run_text(item: Instruction) -> str:
    """Return what the shell gets: a here-document alone is the script itself; others stand below the command."""
    if item.is_json or not item.heredocs:
        return item.text
    if len(item.words) == 1:
        return item.heredocs[0].content
    return item.text + "".join(f"\n{doc.content}{doc.name}" for doc in item.heredocs)
