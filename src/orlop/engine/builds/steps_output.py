"""What ``orlop build`` reads: documents of steps that go on at the same time (``progress=steps``).

::

    {"step": {"Number": 3, "Total": 9, "Stage": "build", "Text": "RUN make"}}      it begins
    {"step": {"Number": 3, "Output": "..."}}                                       what it wrote, in pieces
    {"step": {"Number": 3, "Image": "0123456789ab", "Cached": true}}               what it gave
    {"step": {"Number": 3, "Ended": true}}                                         and no more comes of it
    {"aux": {"ID": "sha256:...", "Stages": ["sha256:..."]}}                        the image, and those of all stages

Pulls, text of the build as a whole and failures are as in Docker's stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.builds.output import BuildOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.build.lint_findings import Findings
    from orlop.build.steps import Step
    from orlop.engine.builds.output import Place
    from orlop.errors import OrlopError

_WORDS = (" ---> Running in ", " ---> Removed intermediate container ")
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


class StepsOutput(BuildOutput):
    """Puts documents into an output at once: nothing waits for its turn."""

    checks = True

    def begin(self, step: Step) -> None:
        """Put a step's beginning."""
        told = {"Number": step.number, "Total": step.total, "Stage": step.stage, "Text": step.text}
        self._output.put({"step": told})

    def say(self, step: Step | None, text: str) -> None:
        """Put what a step wrote; Docker's words around it are not its own."""
        if step is None:
            self._output.stream(text)
        elif not text.startswith(_WORDS):
            text = text.removeprefix(_RED).removesuffix(_PLAIN) if text.startswith(_RED) else text
            if text:
                self._output.put({"step": {"Number": step.number, "Output": text}})

    def result(self, step: Step, image: str, *, cached: bool = False) -> None:
        """Put what a step gave."""
        self._output.put({"step": {"Number": step.number, "Image": image, "Cached": cached}})

    def end(self, step: Step) -> None:
        """Put a step's end."""
        self._output.put({"step": {"Number": step.number, "Ended": True}})

    def finish(self, image: str, stages: Sequence[str] = ()) -> None:
        """Put the image's id, and those of the stages."""
        self._output.put({"aux": {"ID": image, "Stages": list(stages)}})

    def warn(self, findings: Findings) -> None:
        """Put what the Dockerfile should better say."""
        if count := len(findings.warnings):
            rows = [f" - {found.rule.name}: {found.text} (line {found.line})\n" for found in findings.warnings]
            self._output.stream(f"{count} warning{'s' if count > 1 else ''} found (see --check):\n{''.join(rows)}")

    def locate(self, place: Place, error: OrlopError) -> None:
        """Say where it is."""
        error.args = (f"{place.name}:{place.line}: {error}",)

    def tagged(self, name: str) -> None:
        """Put one of the image's new names."""
        self._output.stream(f"naming to {name}\n")
