"""``--init``: pid 1 stays, runs the program as its child, forwards signals to it and reaps orphans.

It runs after privileges were dropped and the filter was loaded, from the sealed interpreter, with imports blocked.
"""

from __future__ import annotations

import os

from orlop.kernel.command_line import CommandLine, find_command_line
from orlop.kernel.plain import signal
from orlop.kernel.prctl import set_name, set_pdeathsig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from orlop.primitives.channel import Channel

# Sent by the kernel for what pid 1 itself does; forwarding them would be wrong.
_KEPT = frozenset(
    {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
)


# as Docker's own, which tools look for
_NAME = b"docker-init"
_command_line: CommandLine | None = None


def preload() -> None:
    """Find in the spawner what cannot be looked up inside a container."""
    global _command_line
    _command_line = find_command_line()


def run_as_reaper(sync: Channel, arguments: Sequence[str]) -> None:
    """Fork: the child returns, to execute the program; the parent stays as pid 1 and never returns.

    Everybody in the container can read pid 1's command line, so it is not to be the spawner's, with paths of the host.
    """
    forwarded = set(signal.valid_signals()) - _KEPT
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
    child = os.fork()  # noqa: TID251 - single thread; descriptors are only the stdio and the sync channel
    if child == 0:
        os.setpgid(0, 0)
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        set_pdeathsig(signal.SIGKILL)
        return
    sync.close()
    set_name(_NAME)
    if _command_line is not None:
        _command_line.write([b"/sbin/" + _NAME, b"--", *map(os.fsencode, arguments)])
    for number in range(3):  # else pid 1 would keep the program's pipes open after its end
        os.close(number)
    _loop(child, forwarded | {signal.SIGCHLD})


def _take_terminal() -> None:
    """Make the program's process group the terminal's foreground one, if there is a terminal."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(0, os.getpgrp())
    except OSError:
        return


def _loop(child: int, signals: set[signal.Signals]) -> NoReturn:
    while True:
        received = signal.sigwait(signals)
        if received != signal.SIGCHLD:
            try:
                os.kill(child, received)
            except ProcessLookupError:
                continue
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
