"""Waiting for a process as its foreground: signals go to it, the terminal is copied, its status is returned."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket

from orlop.kernel.process import pidfd_send_signal
from orlop.runtime.oci.console import Relay, copy_size, raw_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# SIGURG is Go's own preemption signal, which runc must not forward; SIGPIPE is about our output, not the container
_KEPT = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH}


def wait_in_foreground(pid: int, pidfd: int, master: int | None) -> int:
    """Wait for the process and return its exit status, 128+n after signal n.

    Args:
        pid: a child, or what the kernel gave us as subreaper.
        pidfd: of the same.
        master: the master end of its terminal, or None.
    """
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True

    with selectors.DefaultSelector() as selector, _signals() as wakeup, contextlib.ExitStack() as stack:
        selector.register(pidfd, selectors.EVENT_READ, end)
        selector.register(wakeup, selectors.EVENT_READ, lambda: _forward(wakeup, pidfd, master))
        relay = None
        if master is not None:
            stack.enter_context(raw_terminal(0))
            copy_size(0, master)
            relay = Relay(selector, master)
        while not ended:
            for key, _ in selector.select():
                key.data()
        if relay is not None:
            relay.close()
            relay.drain()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Turn every signal that can be forwarded into a byte on the returned socket."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = {}
    for number in signal.valid_signals() - _KEPT | {signal.SIGWINCH}:
        with contextlib.suppress(OSError, ValueError):
            before[number] = signal.signal(number, _ignore)
    old = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _ignore(number: int, frame: object) -> None:
    """Be there, so that the signal is written to the wakeup descriptor."""


def _forward(wakeup: socket.socket, pidfd: int, master: int | None) -> None:
    try:
        numbers = wakeup.recv(256)
    except BlockingIOError:
        return
    for number in numbers:
        if number == signal.SIGWINCH:
            if master is not None:
                copy_size(0, master)
        else:
            with contextlib.suppress(ProcessLookupError):
                pidfd_send_signal(pidfd, number)
