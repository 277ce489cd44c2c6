"""Progress of pull, import and load: bars on a terminal after the first second, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from orlop.cli.documents import member, number, text
from orlop.cli.invocation import CommandError
from orlop.cli.text import safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO, TextIO

    from rich.progress import Progress, TaskID

_DELAY = 1.0
_CHUNK = 1 << 18


def show(documents: Iterable[Mapping[str, object]], *, quiet: bool = False, stream: TextIO | None = None) -> None:
    """Show the documents of a progress stream to their end.

    Raises:
        CommandError: the stream reported an error.
    """
    stream = stream or sys.stdout
    bars = _Bars(stream) if stream.isatty() and not quiet else None
    try:
        for document in documents:
            problem = text(member(document, "errorDetail"), "message") or text(document, "error")
            if problem:
                raise CommandError(problem)
            if quiet:
                continue
            if bars is not None and bars.update(document):
                continue
            if bars is not None and not text(document, "id"):
                bars.close()  # what follows is written below them
            _write_line(document, stream)
    finally:
        if bars is not None:
            bars.close()


def _write_line(document: Mapping[str, object], stream: TextIO) -> None:
    if text(document, "stream"):
        stream.write(safe(text(document, "stream")))
    elif text(document, "status") and not member(document, "progressDetail"):
        name = text(document, "id")
        stream.write(safe(f"{name}: {text(document, 'status')}" if name else text(document, "status")) + "\n")
    stream.flush()


class _Bars:
    """A bar per layer; rich is imported when the first second has passed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, document: Mapping[str, object]) -> bool:
        """Take one document; False: it is no progress and is to be written as a line."""
        detail = member(document, "progressDetail")
        name = text(document, "id")
        if self._progress is not None and name in self._tasks and not detail:
            self._progress.update(self._tasks[name], description=safe(f"{name}: {text(document, 'status')}"))
            return True
        if not detail or not name:
            return False
        if self._progress is None:
            if time.monotonic() - self._begin < _DELAY:
                return True
            self._progress = _make_progress(self._stream)
            self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(safe(name), total=number(detail, "total") or None)
        self._progress.update(
            self._tasks[name],
            completed=number(detail, "current"),
            description=safe(f"{name}: {text(document, 'status')}"),
        )
        return True

    def close(self) -> None:
        """Take the bars away from the terminal's care."""
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._tasks = None, {}


def read_with_bar(file: BinaryIO, *, size: int, label: str) -> Iterator[bytes]:
    """Yield a file's bytes; on a terminal, with a bar once it takes longer than a second.

    Args:
        file: what to read.
        size: its length, 0 when unknown.
        label: what is done with it.
    """
    begin, sent = time.monotonic(), 0
    progress: Progress | None = None
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
            sent += len(chunk)
            if progress is None and sys.stderr.isatty() and time.monotonic() - begin > _DELAY:
                progress = _make_progress(sys.stderr)
                progress.add_task(label, total=size or None)
                progress.start()
            if progress is not None:
                progress.update(progress.task_ids[0], completed=sent)
    finally:
        if progress is not None:
            progress.stop()


def _make_progress(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(file=stream))
