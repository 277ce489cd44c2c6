"""Between a terminal (or pipes) and a hijacked stream: input, output, signals and resizes, in one poll loop.

Nothing blocks but the poll: what the container does not read yet is kept, and standard input is not read meanwhile, so
that ``cat`` in a container can be fed and drained at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from orlop.cli.terminal import DEFAULT_DETACH_KEYS, DetachScanner, RawMode, parse_detach_keys, size_of
from orlop.client.stdcopy import STDERR, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from orlop.client.connection import HijackedStream

_CHUNK = 32768
_PIECE = 1 << 18
_NOT_PROXIED = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}


class SignalPipe:
    """Turns signals into bytes of a pipe for the time of a ``with``."""

    def __init__(self, *, proxied: bool, resizes: bool) -> None:
        self._signals = {signal.SIGWINCH} if resizes else set()
        if proxied:
            self._signals |= {number for number in signal.valid_signals() if number not in _NOT_PROXIED | _FAULTS}
        self._before: dict[int, object] = {}
        self.read_end = self._write_end = -1

    def __enter__(self) -> SignalPipe:
        self.read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)  # before any handler, which drops its signal
        for number in self._signals:
            try:
                self._before[number] = signal.signal(number, _nothing)
            except OSError:  # the libc keeps some real-time signals for itself
                continue
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() returned
        signal.set_wakeup_fd(-1)
        os.close(self.read_end)
        os.close(self._write_end)

    def received(self) -> bytes:
        """Return the numbers of the signals that came."""
        try:
            return os.read(self.read_end, 512)
        except BlockingIOError:
            return b""


class Session:
    """One attached container or exec session.

    Args:
        stream: the hijacked stream.
        tty: the other end is a terminal: bytes are not multiplexed.
        stdin: whether to send standard input.
        detach_keys: as the user wrote them; "" for the default.
        resize: called with height and width, at the start of a terminal session and when the window changes.
        kill: called with a signal's name when it is to be passed on; None: signals act on this process.
    """

    def __init__(
        self,
        stream: HijackedStream,
        *,
        tty: bool,
        stdin: bool,
        detach_keys: str = "",
        resize: Callable[[int, int], object] | None = None,
        kill: Callable[[str], object] | None = None,
    ) -> None:
        self._stream = stream
        self._tty = tty
        self._stdin = stdin
        self._resize = resize
        self._kill = kill
        self._outgoing = bytearray()
        self._finished_input = False
        self._demultiplexer = Demultiplexer()
        keys = parse_detach_keys(detach_keys or DEFAULT_DETACH_KEYS) if tty else b""
        self._scanner = DetachScanner(keys)

    @property
    def detached(self) -> bool:
        """Whether the user detached; the other end goes on."""
        return self._scanner.detached

    def run(self) -> None:
        """Copy until the other end closes or the user detaches."""
        from contextlib import ExitStack

        sys.stdout.flush()
        with ExitStack() as stack:
            if self._tty and self._stdin and os.isatty(0):
                stack.enter_context(RawMode(0))
            pipe = stack.enter_context(SignalPipe(proxied=self._kill is not None, resizes=self._tty))
            stack.callback(self._stream.close)
            if self._tty:
                self._send_size()
            self._loop(pipe)

    def _loop(self, pipe: SignalPipe) -> None:
        self._stream.socket.setblocking(False)
        stream = self._stream.fileno()
        while not self.detached:
            if self._stream.pending:
                self._write(self._stream.receive())
                continue
            poll = select.poll()
            poll.register(pipe.read_end, select.POLLIN)
            poll.register(stream, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
            if self._stdin and not self._outgoing:
                poll.register(0, select.POLLIN)
            ready = dict(poll.poll())
            if pipe.read_end in ready:
                self._handle_signals(pipe.received())
            if stream in ready and not self._exchange(ready[stream]):
                return
            if 0 in ready:
                self._read_input()

    def _exchange(self, events: int) -> bool:
        """Receive and send what is possible; False at the end of the stream."""
        if events & select.POLLOUT:
            self._flush()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            try:
                data = self._stream.receive(_CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._write(data)
        return True

    def _read_input(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            data = b""
        if not data:
            self._stdin = False
            self._finished_input = True
        else:
            self._outgoing += self._scanner.feed(data)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._stream.socket.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:  # the other end reads no more, but may still be writing
            self._outgoing.clear()
            self._stdin = False
        if self._finished_input:
            self._finished_input = False
            self._stream.close_write()

    def _write(self, data: bytes) -> None:
        if self._tty:
            write_all(1, data)
            return
        for number, payload in self._demultiplexer.feed(data):
            write_all(2 if number == STDERR else 1, payload)

    def _handle_signals(self, numbers: bytes) -> None:
        from orlop.errors import OrlopError

        for number in numbers:
            if number == signal.SIGWINCH and self._tty:
                self._send_size()
            elif self._kill is not None:
                try:
                    self._kill(str(number) if number >= signal.SIGRTMIN else signal.Signals(number).name)
                except OrlopError:
                    continue  # it is gone already; its exit code tells the rest

    def _send_size(self) -> None:
        from orlop.errors import OrlopError

        size = size_of(1) or size_of(0)
        if size is not None and self._resize is not None:
            try:
                self._resize(*size)
            except OrlopError:
                return  # it is gone already, or has not come up: a wrong size is no reason to fail


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # an O_NONBLOCK terminal that someone else left
            select.select([], [descriptor], [])


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by the wake-up pipe alone."""


def tar_pieces(pack: Callable[[int], object]) -> Iterator[bytes]:
    """Yield what a thread writes to the descriptor that it is given.

    Raises:
        CommandError: it failed; raised when all that it wrote was taken.
    """
    import threading

    from orlop.cli.invocation import CommandError
    from orlop.errors import OrlopError

    failures: list[Exception] = []
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def work() -> None:
        try:
            pack(writing)
        except (OSError, OrlopError) as error:
            failures.append(error)
        finally:
            os.close(writing)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while data := os.read(reading, _PIECE):
            yield data
    finally:
        os.close(reading)
        thread.join()
    if failures:
        raise CommandError(str(failures[0]))
