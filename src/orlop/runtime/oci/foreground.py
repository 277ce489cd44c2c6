"""Waiting for a process as its foreground: signals go to it, the terminal is copied, its status is returned."""

from __future__ import annotations

import os
import select

from orlop.kernel.plain import signal
from orlop.kernel.process import pidfd_send_signal
from orlop.primitives.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

    from orlop.runtime.oci.notify import Notifications

# SIGURG is Go's own preemption signal, which runc must not forward; SIGPIPE is about our output, not the container
_KEPT = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH}


def wait_in_foreground(
    pid: int, pidfd: int, master: int | None, signals: Signals, notifications: Notifications | None = None
) -> int:
    """Wait for the process and return its exit status, 128+n after signal n.

    Args:
        pid: a child, or what the kernel gave us as subreaper.
        pidfd: of the same.
        master: the master end of its terminal, or None; ``orlop.runtime.oci.console`` must have been imported then.
        signals: entered before the process was made; those that have come since are forwarded at once.
        notifications: of the program's readiness, handed on meanwhile; this process is the service then.
    """
    if master is None:
        _wait(pidfd, signals, notifications)
    else:
        _relay(pidfd, signals, master, notifications)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _wait(pidfd: int, signals: Signals, notifications: Notifications | None) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(signals.fileno(), select.POLLIN)
    if notifications is not None:
        poller.register(notifications.fileno(), select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if notifications is not None and notifications.fileno() in ready:
            notifications.relay(os.getpid())
        if pidfd in ready:
            return
        signals.forward(pidfd, None)


def _relay(pidfd: int, signals: Signals, master: int, notifications: Notifications | None) -> None:
    import selectors

    from orlop.runtime.oci.console import Relay, copy_size, raw_terminal

    ended = False

    def end() -> None:
        nonlocal ended
        ended = True

    with selectors.DefaultSelector() as selector, raw_terminal(0):
        selector.register(pidfd, selectors.EVENT_READ, end)
        selector.register(signals.fileno(), selectors.EVENT_READ, lambda: signals.forward(pidfd, master))
        if notifications is not None:
            selector.register(notifications.fileno(), selectors.EVENT_READ, lambda: notifications.relay(os.getpid()))
        copy_size(0, master)
        relay = Relay(selector, master)
        while not ended:
            for key, _ in selector.select():
                key.data()
        relay.close()
        relay.drain()


class Signals:
    """While the block runs every signal that can be forwarded becomes a byte of a pipe.

    Enter it before there is a process: who sees that it runs, by its state or by what it writes, may send one at once,
    and the default action would end this process, and the other with it.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[int, object] = {}
        self._wakeup = -1

    def fileno(self) -> int:
        """Return the pipe's end that is readable after a signal."""
        return self._reader

    def __enter__(self) -> Self:
        for number in signal.valid_signals() - _KEPT | {signal.SIGWINCH}:
            with suppress(OSError, ValueError):
                self._before[number] = signal.signal(number, _ignore)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned
        os.close(self._reader)
        os.close(self._writer)

    def forward(self, pidfd: int, master: int | None) -> None:
        """Send what has come to the process; a changed window goes to its terminal."""
        try:
            numbers = os.read(self._reader, 256)
        except BlockingIOError:
            return
        for number in numbers:
            if number != signal.SIGWINCH:
                with suppress(ProcessLookupError):
                    pidfd_send_signal(pidfd, number)
            elif master is not None:
                from orlop.runtime.oci.console import copy_size

                copy_size(0, master)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Be there, so that the signal is written to the wakeup descriptor."""
