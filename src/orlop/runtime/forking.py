"""The only place that forks: a child that holds nothing but what it was given and can import nothing any more."""

from __future__ import annotations

import gc
import os
import sys

from orlop.kernel.plain import signal
from orlop.kernel.process import close_all_but
from orlop.runtime.init import reset_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from orlop.runtime.importing import Blocker


def assert_single_threaded() -> None:
    """Refuse to fork with threads: locks of others would stay held in the child (threats.md J6)."""
    count = len(os.listdir("/proc/self/task"))
    if count != 1:
        raise RuntimeError(f"spawner has {count} threads")


def fork(keep: Iterable[int], run: Callable[[], None], blocker: Blocker) -> int:
    """Fork a child that runs ``run`` and ends; returns its pid in the parent.

    In the child: descriptors from 3 on are closed but for ``keep``, imports are blocked, signals are back to their
    defaults, it leads a session of its own. It never returns into the caller's stack.
    """
    assert_single_threaded()
    pid = os.fork()  # noqa: TID251 - this is that place
    if pid:
        return pid
    return _child(keep, run, blocker)


def _child(keep: Iterable[int], run: Callable[[], None], blocker: Blocker) -> NoReturn:
    status = 1
    try:
        gc.disable()
        blocker.install()
        sys.excepthook = _silent  # a formatted traceback reads source files
        close_all_but(keep)
        for number in (1, 2):  # the engine's own output is not to be held open by what survives the engine
            os.dup2(0, number)
        reset_signals()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.setsid()
        run()
        status = 0
    finally:
        os._exit(status)


def fork_worker(run: Callable[[], None]) -> int:
    """Fork a short-lived child of a process that is single-threaded and has blocked imports already; returns its pid.

    What the work allocates and touches ends with the child, so that a shim that lives for weeks stays small.
    """
    pid = os.fork()  # noqa: TID251 - this is that place
    if pid:
        return pid
    try:
        run()
    finally:
        os._exit(0)


def _silent(*_: object) -> None:
    """Say nothing."""
