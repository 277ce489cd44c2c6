"""What the client of a build reads: Docker's stream of the classic builder.

Stages are built at the same time, and read one after the other: what a step says is kept until the steps before it have
ended, up to :data:`_MOST_EARLY` characters a step. Nothing ever waits for its turn: the step whose turn it is may wait
for another stage's same step, which the cache is to have from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.engine.registry.output import Output

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from orlop.build.builder import Plan
    from orlop.build.lint_findings import Findings
    from orlop.build.steps import Step, StepFailedError
    from orlop.engine.registry.output import Document
    from orlop.errors import OrlopError

_MOST_WAITING = 512
_MOST_EARLY = 2 << 20  # what BuildKit keeps of a step's output
_CLIPPED = "\n[output clipped, log limit 2MiB reached]\n"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a Dockerfile, from 1: the file's name and its text; the number of the step there, 0 before any."""

    name: str
    line: int
    text: bytes
    step: int = 0


class BuildOutput:
    """Puts documents into an output; ``quiet`` keeps the text back until there is an error or an image."""

    checks = False  # it has a place for what the Dockerfile should better say

    def __init__(self, output: Output, *, quiet: bool = False) -> None:
        self._output = output
        self._quiet = quiet
        self._kept: list[str] = []
        self._turn = 1  # of the step whose text goes out at once
        self._early: dict[int, list[str]] = {}
        self._sizes: dict[int, int] = {}
        self._ended: set[int] = set()

    def pulls(self, name: str) -> Output:
        """Where the progress of an image's pull goes; nowhere when quiet."""
        del name
        return Output() if self._quiet else self._output

    def planned(self, plan: Plan, name: str, text: bytes, contexts: Collection[str]) -> None:
        """Know the steps that will be, the Dockerfile that they come from, and the names of further contexts."""

    def begin(self, step: Step) -> None:
        """Put a step's head."""
        self.say(step, f"Step {step.number}/{step.total} : {step.text}")
        self.say(step, "\n")

    def say(self, step: Step | None, text: str) -> None:
        """Put text as it is, when it is the step's turn."""
        if step is None or step.number <= self._turn:
            self._put(text)
            return
        size = self._sizes.get(step.number, 0)
        if size <= _MOST_EARLY:
            self._sizes[step.number] = size + len(text)
            self._early.setdefault(step.number, []).append(text if size + len(text) <= _MOST_EARLY else _CLIPPED)

    def result(self, step: Step, image: str, *, cached: bool = False) -> None:
        """Put what a step gave."""
        if cached:
            self.say(step, " ---> Using cache\n")
        self.say(step, f" ---> {image}\n")

    def end(self, step: Step) -> None:
        """Let the next step have its turn."""
        self._ended.add(step.number)
        while self._turn in self._ended:
            self._ended.remove(self._turn)
            self._turn += 1
            for text in self._early.pop(self._turn, ()):
                self._put(text)

    def _put(self, text: str) -> None:
        if self._quiet:
            self._kept = [*self._kept[-_MOST_WAITING:], text]
        elif text:
            self._output.stream(text)

    def flush(self) -> None:
        """Put what steps said that never had their turn: one before them failed, or they did."""
        for number in sorted(self._early):
            for text in self._early.pop(number):
                self._put(text)

    def finish(self, image: str, stages: Sequence[str] = ()) -> None:
        """Put the image's id where programs read it; those of the stages have no place there."""
        del stages
        if self._quiet:
            self._output.stream(f"{image}\n")
        else:
            self._output.put({"aux": {"ID": image}})
            self._put(f"Successfully built {image.removeprefix('sha256:')[:12]}\n")

    def warn(self, findings: Findings) -> None:
        """Docker's classic stream has no place for what a Dockerfile should better say."""

    def locate(self, place: Place, error: OrlopError) -> None:
        """Docker's own words have no place of an error in the Dockerfile."""

    def checked(self, findings: Findings, dockerfile: bytes, name: str) -> None:
        """Put what a check has found, with the text that it is about."""
        warnings = [
            {
                "RuleName": found.rule.name,
                "Description": found.rule.description,
                "URL": found.rule.url,
                "Detail": found.text,
                "Line": found.line,
            }
            for found in findings.warnings
        ]
        text = dockerfile.decode("utf-8", "replace")
        self._output.put({"aux": {"Warnings": warnings, "Name": name, "Text": text}})

    def tagged(self, name: str) -> None:
        """Put one of the image's new names."""
        if not self._quiet:
            self._put(f"Successfully tagged {name}\n")

    def fail(self, error: StepFailedError) -> None:
        """Put the failure of a command with its code."""
        self.flush()
        if self._quiet:
            for text in self._kept:
                self._output.stream(text)
        detail: Document = {"code": error.code, "message": str(error)}
        self._output.put({"errorDetail": detail, "error": str(error)})

    async def wait_room(self) -> None:
        """Wait while the client has not read what was put."""
        await self._output.wait_room(_MOST_WAITING)
