"""Stages: what FROM begins, and which of them an image needs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.build.mounts import mount_origins
from orlop.build.parser import DockerfileError
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.build.instructions import Instruction


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        index: from 0.
        name: lower case; empty for none.
        start: its FROM.
        instructions: after it.
    """

    index: int
    name: str
    start: Instruction
    instructions: tuple[Instruction, ...]

    @property
    def base(self) -> str:
        """What FROM names, not expanded."""
        return self.start.words[0]


def split_stages(instructions: Sequence[Instruction]) -> tuple[tuple[Instruction, ...], tuple[Stage, ...]]:
    """Return the ARGs before the first FROM, and the stages. Raises DockerfileError."""
    meta: list[Instruction] = []
    stages: list[tuple[Instruction, list[Instruction]]] = []
    for item in instructions:
        if item.name == "FROM":
            stages.append((item, []))
        elif stages:
            stages[-1][1].append(item)
        elif item.name == "ARG":
            meta.append(item)
        else:
            raise DockerfileError(item.line, "no build stage in current context")
    if not stages:
        raise InvalidParameterError("no build stage in current context")
    made = [
        Stage(index, start.words[2].lower() if len(start.words) == 3 else "", start, tuple(body))
        for index, (start, body) in enumerate(stages)
    ]
    return tuple(meta), tuple(made)


class StageNames:
    """Finds stages by name among those before another one; the last of several of one name is meant."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._places: dict[str, list[int]] = {}
        for stage in stages:
            if stage.name:
                self._places.setdefault(stage.name, []).append(stage.index)

    def named(self, name: str, before: int) -> Stage | None:
        """Return the stage that FROM means, which knows no numbers."""
        places = self._places.get(name.lower(), ())
        at = bisect_left(places, before)
        return self._stages[places[at - 1]] if at else None

    def find(self, name: str, before: int) -> Stage | None:
        """Return the stage of this name or number; None for neither."""
        stage = self.named(name, before)
        if stage is None and name.isascii() and name.isdigit() and int(name[:9]) < before:
            return self._stages[int(name[:9])]
        return stage


def needed_stages(
    stages: Sequence[Stage], target: str = "", *, base_of: Callable[[Stage], str] | None = None
) -> tuple[Stage, ...]:
    """Return the stages that the target (by default the last) is made of, in order; the target is the last of them.

    Args:
        stages: all.
        target: name or number; empty for the last.
        base_of: gives what FROM names with variables put in; by default the text as it is.

    Raises:
        InvalidParameterError: ``target stage "x" could not be found``.
    """
    known = StageNames(stages)
    final = known.find(target, len(stages)) if target else stages[-1]
    if final is None:
        raise InvalidParameterError(f'target stage "{target}" could not be found')
    needed: set[int] = set()
    waiting = [final]
    while waiting:
        stage = waiting.pop()
        if stage.index in needed:
            continue
        needed.add(stage.index)
        base = stage.base if base_of is None else base_of(stage)
        parent = known.named(base, stage.index)
        names = [] if parent is None else [str(parent.index)]
        if parent is not None:  # its triggers are carried out here
            names += [name for item in parent.instructions if item.trigger for name in _origins(item.trigger)]
        names += [name for item in stage.instructions for name in _origins(item)]
        waiting += [found for name in names if (found := known.find(name, stage.index)) is not None]
    return tuple(stage for stage in stages if stage.index in needed)


def _origins(item: Instruction) -> list[str]:
    """Return what an instruction takes files from."""
    if item.name == "COPY":
        return [item.flags["from"]] if "from" in item.flags else []
    return mount_origins(item.repeated.get("mount", ()))
