"""What a Dockerfile offers, without building it: its targets, and the arguments, secrets and agents of one.

Source: github.com/moby/buildkit, ``frontend/subrequests/targets`` and ``outline``: a comment right above that begins
with the name describes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.build.mounts import parse_mount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.build.builder import Plan
    from orlop.build.stages import Stage


@dataclass(frozen=True, slots=True)
class Target:
    """One stage: its name (empty for none), what it stands on as written, what it is for, and its first line."""

    name: str
    base: str
    description: str
    line: int
    default: bool


@dataclass(frozen=True, slots=True)
class Argument:
    """One ARG of a target: its value, empty for none."""

    name: str
    value: str
    description: str
    line: int


@dataclass(frozen=True, slots=True)
class Need:
    """A secret, an SSH agent or a cache that a target's steps mount."""

    name: str
    required: bool
    line: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What one target takes from its user."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    secrets: tuple[Need, ...]
    agents: tuple[Need, ...]
    caches: tuple[Need, ...]


def targets(plan: Plan, text: bytes) -> list[Target]:
    """Return all stages; the last is the default."""
    lines = text.decode("utf-8", "replace").splitlines()
    found = []
    for stage in plan.stages:
        line = stage.start.line
        described = _described(lines, line, stage.name)
        found.append(Target(stage.name, stage.base, described, line, default=stage is plan.stages[-1]))
    return found


def outline(plan: Plan, text: bytes) -> Outline:
    """Return what the plan's target takes."""
    lines = text.decode("utf-8", "replace").splitlines()
    target = plan.needed[-1]
    given = plan.arguments.given
    arguments: dict[str, Argument] = {}
    for item in (*plan.meta, *(item for stage in plan.needed for item in stage.instructions)):
        for name, default in item.pairs if item.name == "ARG" else ():
            known = arguments.get(name)
            value = given.get(name, (known.value if known else "") if default is None else default)
            described = _described(lines, item.line, name)
            arguments[name] = Argument(name, value, described or (known.description if known else ""), item.line)
    return Outline(
        target.name,
        _described(lines, target.start.line, target.name),
        tuple(arguments.values()),
        _needs(plan.needed, "secret"),
        _needs(plan.needed, "ssh"),
        _needs(plan.needed, "cache"),
    )


def _described(lines: Sequence[str], line: int, name: str) -> str:
    above = lines[line - 2].strip() if 2 <= line <= len(lines) + 1 else ""
    words = above.lstrip("#").strip() if above.startswith("#") else ""
    return words.removeprefix(f"{name} ").strip() if name and words.startswith(f"{name} ") else ""


def _needs(stages: Sequence[Stage], kind: str) -> tuple[Need, ...]:
    """Return what is mounted of one kind; where variables are in it, that is not known before the build."""
    found: dict[str, Need] = {}
    for item in (item for stage in stages for item in stage.instructions):
        for text in item.repeated.get("mount", ()):
            mount = parse_mount(text)
            if mount is not None and mount.kind == kind:
                known = found.get(mount.name)
                if known is None or (mount.required and not known.required):
                    found[mount.name] = Need(mount.name, mount.required, item.line)
    return tuple(found.values())
