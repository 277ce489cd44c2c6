"""The ends of a program's standard streams that the shim holds: pipes, or the master of its terminal."""

from __future__ import annotations

import os

from orlop.kernel import pty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from orlop.primitives.owned_fd import OwnedFd

READ_SIZE = 64 * 1024


class Streams:
    """Owns the shim's ends; as a context manager it owns the program's ends until the program has them.

    Attributes:
        theirs: descriptors for the program's 0, 1, 2; None with a terminal.
        readers: stream name by descriptor, of what can be read.
        writer: where input goes, or None.
        terminal: whether there is one.
    """

    def __init__(self, *, terminal: bool, open_stdin: bool) -> None:
        self.terminal = terminal
        self.theirs: tuple[int, int, int] | None = None
        self.readers: dict[int, str] = {}
        self.writer: int | None = None
        self._open_stdin = open_stdin
        self._handed: list[int] = []
        if terminal:
            return
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        if open_stdin:
            in_read, self.writer = os.pipe2(os.O_CLOEXEC)
        else:
            in_read = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.theirs = (in_read, out_write, err_write)
        self._handed = [in_read, out_write, err_write]
        self.readers = {out_read: "stdout", err_read: "stderr"}

    @classmethod
    def adopt(cls, readers: dict[int, str], writer: int | None, *, terminal: bool) -> Streams:
        """Take over our ends, non-blocking, of a program that has its own."""
        streams = cls(terminal=True, open_stdin=writer is not None)  # a terminal's are not made here
        streams.terminal, streams.readers, streams.writer = terminal, readers, writer
        return streams

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for fd in self._handed:
            os.close(fd)
        self._handed = []
        if kind is not None:
            self.close()

    def started(self, master: OwnedFd | None) -> None:
        """Take over the terminal's master and make everything non-blocking."""
        if master is not None:
            fd = master.release()
            self.readers = {fd: "stdout"}
            self.writer = fd if self._open_stdin else None
        for fd in self.descriptors():
            os.set_blocking(fd, False)

    def descriptors(self) -> set[int]:
        """Return every descriptor that is open."""
        return {*self.readers, *(() if self.writer is None else (self.writer,))}

    def resize(self, height: int, width: int) -> bool:
        """Set the terminal's size; False when there is none."""
        if not self.terminal or not self.readers:
            return False
        pty.set_window_size(next(iter(self.readers)), height, width)
        return True

    def close_reader(self, fd: int) -> None:
        """Forget one output stream."""
        self.readers.pop(fd, None)
        if self.writer == fd:  # a terminal's master is both
            self.writer = None
        os.close(fd)

    def close_writer(self) -> None:
        """End the program's input; a terminal's cannot be ended without the terminal."""
        fd, self.writer = self.writer, None
        if fd is not None and fd not in self.readers:
            os.close(fd)

    def close(self) -> None:
        """Close what is left."""
        for fd in self.descriptors():
            os.close(fd)
        self.readers, self.writer = {}, None
