"""A build of the engine's, told as BuildKit tells of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orlop.api.buildkit.control_messages import SourceInfo
from orlop.api.buildkit.status_log import CANCELED
from orlop.build.titles import titles
from orlop.engine.builds.output import BuildOutput
from orlop.engine.registry.output import Output
from orlop.errors import OrlopError
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from orlop.api.buildkit.status_log import StatusLog, StepLog
    from orlop.build.builder import Plan
    from orlop.build.lint_findings import Findings
    from orlop.build.steps import Step, StepFailedError
    from orlop.engine.builds.output import Place

_RED, _PLAIN = "\x1b[91m", "\x1b[0m"
_WORDS = (" ---> Running in ", " ---> Removed intermediate container ")


class BuildTelling(BuildOutput):
    """Turns what a build says into steps of a status log.

    Attributes:
        image: the id of what was built; empty before.
        failure: the command that failed.
        place: where in the Dockerfile something failed.
        findings: what a check found.
        source: the Dockerfile.
        plan: what the Dockerfile asks for.
        definition: tells of the loading of it.
    """

    checks = True

    def __init__(self, log: StatusLog) -> None:
        super().__init__(Output())
        self._log = log
        self._titles: dict[int, str] = {}
        self._steps: dict[int, StepLog] = {}
        self.source = SourceInfo()
        self.plan: Plan | None = None
        self.definition: StepLog | None = None
        self.image = ""
        self.failure: StepFailedError | None = None
        self.place: Place | None = None
        self.findings: Findings | None = None

    def planned(self, plan: Plan, name: str, text: bytes, contexts: Collection[str]) -> None:
        """Know the titles."""
        self.plan = plan
        self._titles = dict(titles(plan, contexts))
        self.source = SourceInfo(filename=name, data=text)

    def pulls(self, name: str) -> Output:
        """Tell of a pull as parts of the FROM that wants it, or as a step of its own."""
        with contextlib.suppress(OrlopError):
            name = str(parse_reference(name).with_default_tag())
        for number, step in self._steps.items():
            if not step.ended and self._titles[number].endswith(f" FROM {name}"):
                return _PullTelling(step)
        step = self._steps[-len(self._steps) - 1] = self._log.step(f"[internal] pull {name}").start()
        return _PullTelling(step)

    def begin(self, step: Step) -> None:
        """Tell a step's beginning, if it is one that is shown."""
        if title := self._titles.get(step.number):
            self._steps[step.number] = self._log.step(title).start()

    def say(self, step: Step | None, text: str) -> None:
        """Tell what a command wrote."""
        if step is None or step.number not in self._steps or not text or text.startswith(_WORDS):
            return
        error = text.startswith(_RED)
        text = text.removeprefix(_RED).removesuffix(_PLAIN) if error else text
        self._steps[step.number].write(2 if error else 1, text.encode("utf-8", "surrogateescape"))

    def result(self, step: Step, image: str, *, cached: bool = False) -> None:
        """Tell that a step came from the cache."""
        del image
        if cached and step.number in self._steps:
            self._steps[step.number].complete(cached=True)

    def end(self, step: Step) -> None:
        """Tell a step's end."""
        if step.number in self._steps:
            self._steps[step.number].complete()

    def flush(self) -> None:
        """Nothing is kept back."""

    def fail(self, error: StepFailedError) -> None:
        """Keep the failure."""
        self.failure = error

    def end_all(self, error: str) -> None:
        """Tell the end of the steps that did not come to theirs: one failed, the others were cancelled.

        Args:
            error: of the one; empty when the build did what it should.
        """
        failed = self.place.step if self.place is not None else 0
        for number, step in self._steps.items():
            step.complete(error if number == failed or not error else CANCELED)

    def locate(self, place: Place, error: OrlopError) -> None:
        """Keep where it is."""
        del error
        self.place = place

    def finish(self, image: str, stages: Sequence[str] = ()) -> None:
        """Keep the image's id."""
        del stages
        self.image = image

    def tagged(self, name: str) -> None:
        """Whoever exports tells of names."""
        del name

    def warn(self, findings: Findings) -> None:
        """Tell what the Dockerfile should better say."""
        if self.definition is None:
            return
        for found in findings.warnings:
            self.definition.warn(
                f"{found.rule.name}: {found.text} (line {found.line})",
                found.rule.description,
                url=found.rule.url,
                source=self.source,
                line=found.line,
            )

    def checked(self, findings: Findings, dockerfile: bytes, name: str) -> None:
        """Keep what a check found."""
        self.findings = findings
        self.source = SourceInfo(filename=name, data=dockerfile)

    async def wait_room(self) -> None:
        """Wait while clients have much to read yet."""
        await self._log.wait_room()


class _PullTelling(Output):
    """Tells of a pull's layers as parts of a step."""

    def __init__(self, step: StepLog) -> None:
        super().__init__()
        self._step = step

    def update(self, name: str, status: str, current: int = 0, total: int = 0) -> None:
        """Tell of one layer."""
        super().update(name, status, current, total)
        self._tell()

    def message(self, status: str, *, name: str = "") -> None:
        """Lines are the same in every pull."""

    def error(self, text: str) -> None:
        """Tell that it failed, which is the end of it."""
        self._step.complete(text)

    def _tell(self) -> None:
        documents, self._documents = self._documents, {}
        for document in documents.values():
            detail = document.get("progressDetail")
            numbers = detail if isinstance(detail, dict) else {}
            self._step.part(
                f"{document.get('status')} {document.get('id')}",
                int(numbers.get("current", 0)),
                int(numbers.get("total", 0)),
                over=not numbers,
            )
