"""Errors as runc writes them: logrus' text or JSON lines, to a file that the caller reads, and to stderr."""

from __future__ import annotations

import os
import sys
import time

from orlop.errors import os_error_text
from orlop.primitives.json_text import dumps


class ErrorLog:
    """Where errors go. Without a file they go to stderr alone."""

    __slots__ = ("_format", "_path", "_verbose")

    def __init__(
        self,
        path: str = "",
        *,
        format: str = "text",  # noqa: A002 - the flag's name
        verbose: bool = False,
    ) -> None:
        self._path = path
        self._format = format
        self._verbose = verbose

    def make_file(self) -> None:
        """Make the file, if one was named: who reads it later finds one, and a wrong path is told at once.

        Raises:
            OSError: it cannot be written.
        """
        if self._path:
            os.close(self._open())

    def trace(self, message: str) -> None:
        """Write what is being done, if that was asked for (``--debug``)."""
        if self._verbose:
            self._write("debug", message)

    def warn(self, message: str) -> None:
        """Write what the caller should know although the command goes on."""
        self._write("warning", message)

    def report(self, message: str) -> None:
        """Write one error; with a log file the bare text goes to stderr too."""
        self._write("error", message)
        if self._path:
            sys.stderr.write(f"{message}\n")

    def warning(self, message: str) -> None:
        """Write one warning."""
        self._write("warning", message)

    def _write(self, level: str, message: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._format == "json":
            line = dumps({"level": level, "msg": message, "time": now})
        else:
            line = f"time={dumps(now)} level={level} msg={dumps(message, ensure_ascii=False)}"
        if not self._path:
            sys.stderr.write(f"{line}\n")
            return
        try:
            fd = self._open()
        except OSError as error:
            sys.stderr.write(f"{line}\nunable to open log file: {os_error_text(error)}\n")
            return
        try:
            os.write(fd, f"{line}\n".encode(errors="backslashreplace"))
        finally:
            os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
