"""The way into ``orlop-runtime``: a verb that enters a container runs in a sealed interpreter (threats.md A1).

The installed script has mostly sealed it already, without Python, whose start costs as much as the rest of a verb.
Where it has not, that is done here, and costs one more start. Neither is relied on: nothing is entered by an
interpreter that is not sealed when it looks.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.runtime.oci.code_store import CodeStore

_ENTERING = frozenset({"create", "run", "exec"})
_KEPT = ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR")
_AGAIN = (
    "import sys; sys.path.insert(0, {source!r} + '/orlop/runtime/oci'); import code_store; "
    "code_store.start({source!r}, again=True)"
)
_stores: list[CodeStore] = []


def entry(store: CodeStore, *, again: bool = False) -> NoReturn:
    """Run ``sys.argv``.

    Args:
        store: where modules come from.
        again: this interpreter was sealed from here.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _complete_streams()
    # yes for an option's value that looks like a verb, since sealing does no harm
    entering = not _ENTERING.isdisjoint(sys.argv[1:])
    if entering:
        _prepare_entering(again=again)
    _stores.append(store)
    status = _run(sys.argv[1:])
    if not entering:  # else it was done before imports were blocked
        complete_code()
    _exit(status)


def _complete_streams() -> None:
    """Open the null device for what the caller closed, as Go does.

    Else what is opened next would get the number of a standard stream, which a container gets, or find none there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # the lowest number that is free
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _prepare_entering(*, again: bool) -> None:
    """Return if this interpreter is sealed; else become that, or end."""
    import gc

    from orlop.runtime.interpreter import is_sealed

    gc.disable()  # no collection of garbage that a process of some milliseconds makes
    # What is imported is compiled and kept for the next time, which is why others must not be able to write to files
    # that are made here, whatever the caller's umask.
    os.umask(0o22 | os.umask(0o22))
    if is_sealed():
        return
    if again:
        sys.stderr.write("orlop-runtime: the interpreter is not sealed\n")
        _exit(1)
    _become_sealed()


def _become_sealed() -> NoReturn:
    """Replace this process by the same command in a sealed interpreter; where there is none nothing is entered."""
    from orlop.errors import SystemFailureError
    from orlop.runtime.interpreter import open_sealed_interpreter, source_directory

    path = os.readlink("/proc/self/exe")
    try:
        interpreter = open_sealed_interpreter(path)
    except SystemFailureError as error:
        sys.stderr.write(f"orlop-runtime: {error}\n")
        _exit(1)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    command = [path, "-I", "-S", "-c", _AGAIN.format(source=source_directory()), *sys.argv[1:]]
    os.execve(f"/proc/self/fd/{interpreter.fileno()}", command, environment)


def complete_code() -> None:
    """Add what was loaded from elsewhere to the file of code, where one is used: the next start finds it there."""
    for store in _stores:
        missed = store.missed()
        if missed:
            from orlop.runtime.oci.code_writing import complete

            complete(store, missed)


def _exit(status: int) -> NoReturn:
    """End the process without taking the interpreter apart, which takes longer than most verbs."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by the caller
                stream.flush()
    except OSError:
        status = status or 1
    os._exit(status)


def _run(arguments: list[str]) -> int:
    from orlop.runtime.oci.command import run

    return run(arguments)
