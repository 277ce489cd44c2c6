"""What the client of a build reads: Docker's stream of the classic builder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.registry.output import Output

if TYPE_CHECKING:
    from orlop.build.steps import StepFailedError
    from orlop.engine.registry.output import Document

_MOST_WAITING = 512


class BuildOutput:
    """Puts documents into an output; ``quiet`` keeps the text back until there is an error or an image."""

    def __init__(self, output: Output, *, quiet: bool = False) -> None:
        self._output = output
        self._quiet = quiet
        self._kept: list[str] = []

    @property
    def pulls(self) -> Output:
        """Where the progress of pulls goes; nowhere when quiet."""
        return Output() if self._quiet else self._output

    def say(self, text: str) -> None:
        """Put text as it is."""
        if self._quiet:
            self._kept = [*self._kept[-_MOST_WAITING:], text]
        elif text:
            self._output.stream(text)

    def finish(self, image: str) -> None:
        """Put the image's id where programs read it."""
        if self._quiet:
            self._output.stream(f"{image}\n")
        else:
            self._output.put({"aux": {"ID": image}})
            self.say(f"Successfully built {image.removeprefix('sha256:')[:12]}\n")

    def tagged(self, name: str) -> None:
        """Put one of the image's new names."""
        if not self._quiet:
            self.say(f"Successfully tagged {name}\n")

    def fail(self, error: StepFailedError) -> None:
        """Put the failure of a command with its code."""
        if self._quiet:
            for text in self._kept:
                self._output.stream(text)
        detail: Document = {"code": error.code, "message": str(error)}
        self._output.put({"errorDetail": detail, "error": str(error)})

    async def wait_room(self) -> None:
        """Wait while the client has not read what was put."""
        await self._output.wait_room(_MOST_WAITING)
