"""How a build is shown: steps of stages that go on at the same time.

On a terminal a block at the bottom has the steps that run, with their times and the last lines that they wrote; what
has ended scrolls away above it. Elsewhere, and with ``--progress=plain``, each line bears its step's number.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time

from orlop.cli.documents import member, number, text
from orlop.cli.invocation import CommandError
from orlop.cli.text import safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

_MODES = ("auto", "plain", "tty", "quiet")
_LINES = 6  # of a running step's output that are shown
_KEPT = 100  # and kept, for the step that fails
_REFRESH = 0.1
_TICK = 0.5
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|\r")
_BLUE, _RED, _DIM, _PLAIN = "\x1b[34m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


def choose(mode: str, stream: TextIO | None = None) -> View:
    """Return the view for ``--progress``. Raises CommandError."""
    stream = stream or sys.stderr
    if mode not in _MODES:
        raise CommandError(f"invalid progress mode {mode}: {', '.join(_MODES)}")
    if mode == "quiet":
        return View(stream)
    if mode == "tty" and not stream.isatty():
        raise CommandError("failed to get console: provided file is not a console")
    on_terminal = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return TerminalView(stream) if mode != "plain" and on_terminal else PlainView(stream)


class _Step:
    def __init__(self, document: Mapping[str, object]) -> None:
        stage, place = text(document, "Stage"), f"{number(document, 'Number')}/{number(document, 'Total')}"
        self.title = f"[{stage} {place}] {text(document, 'Text')}" if stage else f"[{place}] {text(document, 'Text')}"
        self.number = number(document, "Number")
        self.begin = time.monotonic()
        self.lines: list[str] = []
        self.rest = ""
        self.cached = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    @property
    def tail(self) -> list[str]:
        """The last lines, the one that has not ended too."""
        return [*self.lines, *([self.rest] if self.rest else [])]

    def add(self, output: str) -> list[str]:
        """Take output; returns the lines that are complete now."""
        *lines, self.rest = (self.rest + output).split("\n")
        self.lines = [*self.lines, *lines][-_KEPT:]
        return lines


class View:
    """Shows nothing but what went wrong.

    Attributes:
        image: the image's id, when it is there.
        stages: ids of the images of all stages.
        code: a failure's exit code.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.image = ""
        self.stages: list[str] = []
        self.code = 0
        self._steps: dict[int, _Step] = {}

    def show(self, documents: Iterable[Mapping[str, object]]) -> None:
        """Show a build to its end.

        Raises:
            CommandError: it failed.
        """
        try:
            for document in documents:
                self._take(document)
        except BaseException:
            self.close()
            raise
        self.close()

    def _take(self, document: Mapping[str, object]) -> None:
        problem = text(member(document, "errorDetail"), "message") or text(document, "error")
        if problem:
            self.code = number(member(document, "errorDetail"), "code")
            self.failed()
            raise CommandError(problem, status=self.code or 1)
        aux = member(document, "aux")
        if text(aux, "ID"):
            self.image = text(aux, "ID")
            stages = aux.get("Stages")
            self.stages = [str(stage) for stage in stages] if isinstance(stages, list) else []
        elif member(document, "step"):
            self._take_step(member(document, "step"))
        elif text(document, "stream"):
            self.say(text(document, "stream").rstrip("\n"))
        elif text(document, "status"):
            self.progress(document)

    def _take_step(self, document: Mapping[str, object]) -> None:
        place = number(document, "Number")
        if "Text" in document:
            self._steps[place] = _Step(document)
            self.begun(self._steps[place])
        step = self._steps.get(place)
        if step is None:
            return
        if text(document, "Output"):
            self.wrote(step, [_clean(line) for line in step.add(text(document, "Output"))])
        if document.get("Cached") is True:
            step.cached = True
        if document.get("Ended") is True:
            if step.rest:
                self.wrote(step, [_clean(line) for line in step.add("\n")])
            del self._steps[place]
            self.ended(step)

    def close(self) -> None:
        """Leave the terminal as it was."""

    def begun(self, step: _Step) -> None:
        """Show that a step begins."""

    def wrote(self, step: _Step, lines: list[str]) -> None:
        """Show what a step wrote."""

    def ended(self, step: _Step) -> None:
        """Show that a step has ended."""

    def say(self, line: str) -> None:
        """Show a line of the build."""

    def progress(self, document: Mapping[str, object]) -> None:
        """Show a line of a pull."""

    def failed(self) -> None:
        """Show the last lines of the steps that did not end."""
        for step in self._steps.values():
            if step.lines or step.rest:
                self.stream.write(f"------\n > {safe(step.title)}:\n")
                self.stream.writelines(f"{_clean(line)}\n" for line in step.tail)
                self.stream.write("------\n")
        self.stream.flush()


def _clean(line: str) -> str:
    """Return a line of output without what would move a cursor or colour the rest."""
    return safe(_SEQUENCE.sub("", line))


class PlainView(View):
    """A line for everything, with the step's number before it."""

    def begun(self, step: _Step) -> None:
        """Write the step's title."""
        self._write(f"#{step.number} {safe(step.title)}")

    def wrote(self, step: _Step, lines: list[str]) -> None:
        """Write lines, with the seconds since the step began."""
        for line in lines:
            self._write(f"#{step.number} {step.seconds:.3f} {line}")

    def ended(self, step: _Step) -> None:
        """Write how long it took."""
        self._write(f"#{step.number} CACHED" if step.cached else f"#{step.number} DONE {step.seconds:.1f}s")

    def say(self, line: str) -> None:
        """Write a line."""
        self._write(safe(line))

    def progress(self, document: Mapping[str, object]) -> None:
        """Write what is no bar."""
        if not member(document, "progressDetail"):
            name = text(document, "id")
            self._write(safe(f"{name}: {text(document, 'status')}" if name else text(document, "status")))

    def failed(self) -> None:
        """Write which steps did not end: their lines are there already."""
        for step in self._steps.values():
            if step.rest:
                self.wrote(step, [_clean(line) for line in step.add("\n")])
            self._write(f"#{step.number} ERROR")

    def _write(self, line: str) -> None:
        self.stream.write(f"{line}\n")
        self.stream.flush()


class TerminalView(View):
    """Redraws the running steps in place, at most ten times a second and whenever a step begins or ends."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._drawn = 0
        self._next = 0.0
        self._begin = time.monotonic()
        self._done = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._pulls: dict[str, str] = {}

    def show(self, documents: Iterable[Mapping[str, object]]) -> None:
        """Show a build to its end; times go on when nothing else does. Raises CommandError: it failed."""
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            super().show(documents)
        finally:
            self._ended.set()
            ticker.join()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            with self._lock:
                self._draw()

    def _take(self, document: Mapping[str, object]) -> None:
        with self._lock:
            super()._take(document)
            if time.monotonic() >= self._next:
                self._draw()

    def begun(self, step: _Step) -> None:
        """Show it at once."""
        del step
        self._next = 0.0

    def ended(self, step: _Step) -> None:
        """Let it scroll away with its time."""
        self._done += 1
        self._pulls.clear()
        how = "CACHED" if step.cached else f"{step.seconds:.1f}s"
        self._above(f"{_BLUE} => {'CACHED ' if step.cached else ''}", safe(step.title), "" if step.cached else how)

    def say(self, line: str) -> None:
        """Let it scroll away."""
        if line:
            self._above("", safe(line), "")

    def progress(self, document: Mapping[str, object]) -> None:
        """Show the newest line of each layer that is pulled."""
        bar = text(document, "progress")
        line = f"{text(document, 'status')} {bar}".strip()
        self._pulls[text(document, "id")] = safe(f"{text(document, 'id')}: {line}".removeprefix(": "))

    def failed(self) -> None:
        """Leave the last lines of what did not end."""
        self._erase()
        for step in self._steps.values():
            self._line(f"{_RED} => ERROR ", safe(step.title), f"{step.seconds:.1f}s")
        super().failed()

    def close(self) -> None:
        """Take the block away."""
        self._ended.set()
        with self._lock:
            self._erase()
            self.stream.flush()

    def _above(self, colour: str, title: str, right: str) -> None:
        self._erase()
        self._line(colour, title, right)
        self._next = 0.0

    def _line(self, colour: str, title: str, right: str) -> None:
        width = self._size()[0] - len(_SEQUENCE.sub("", colour)) - len(right) - 1
        shown = title.replace("\n", " ")
        shown = shown if len(shown) <= width else f"{shown[: max(width - 3, 0)]}..."
        self.stream.write(f"{colour}{shown:<{max(width, 0)}} {right}{_PLAIN}\n")

    def _size(self) -> tuple[int, int]:
        """Return columns and lines; a terminal that does not tell has 80 and 24."""
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return size.columns or 80, size.lines or 24

    def _erase(self) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _draw(self) -> None:
        self._erase()
        self._next = time.monotonic() + _REFRESH
        rows: list[tuple[str, str, str]] = []
        if self._steps:
            head = f"[+] Building {time.monotonic() - self._begin:.1f}s"
            rows.append(("", head, f"{self._done} done, {len(self._steps)} running"))
        for step in sorted(self._steps.values(), key=lambda step: step.number):
            rows.append((" => ", safe(step.title), f"{step.seconds:.1f}s"))
            rows += [(f"{_DIM} => => # ", _clean(line), "") for line in step.tail[-_LINES:]]
        if self._steps:
            rows += [(f"{_DIM} => => ", line, "") for line in list(self._pulls.values())[-_LINES:]]
        # A block that is higher than the terminal could not be taken back.
        rows = rows[: max(self._size()[1] - 1, 1)]
        for row in rows:
            self._line(*row)
        self._drawn = len(rows)
        self.stream.flush()
