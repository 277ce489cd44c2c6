"""What the checks know at an instruction of a stage, and which of its texts hold variables. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.build.instructions import Instruction


class StageState:
    """What a stage knows at one of its lines; ``known``: all variables of its base are."""

    __slots__ = ("_entered", "arguments", "known", "shell", "variables")

    def __init__(self, variables: dict[str, str], *, known: bool) -> None:
        self.variables = variables  # its own
        self.arguments: set[str] = set()  # those of the variables that end with the stage
        self.known = known
        self.shell = False
        self._entered = False

    def child(self, *, known: bool) -> StageState:
        """Return what a stage on top of it begins with."""
        kept = {name: value for name, value in self.variables.items() if name not in self.arguments} if known else {}
        made = StageState(kept, known=known)
        made.shell, made._entered = self.shell, self._entered
        return made

    def enter(self, path: str, warn: Callable[[], None]) -> None:
        """Note a WORKDIR, and call ``warn`` when it depends on the base."""
        absolute = path.lstrip("'\"").startswith(("/", "$"))
        if not absolute and not self._entered:
            warn()
        self._entered = self._entered or absolute


def expanded_texts(item: Instruction) -> list[str]:
    """Return what variables are put into."""
    if item.name in ("ENV", "LABEL", "ARG"):
        return [text for pair in item.pairs for text in pair if text]
    if item.name in ("COPY", "ADD"):
        flags = [value for name, value in item.flags.items() if name in ("chown", "chmod", "checksum")]
        return [*item.words, *flags, *item.repeated.get("exclude", ())]
    if item.name == "RUN":
        return list(item.repeated.get("mount", ()))
    if item.name in ("WORKDIR", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL"):
        return [item.text] if item.name != "VOLUME" else list(item.words)
    return []
