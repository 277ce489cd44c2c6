"""Where ``orlop-runtime`` begins: the verbs that enter a container run from a sealed interpreter (threats.md A1).

The console script starts whatever interpreter the machine has. Before anything is imported that costs time, it is
replaced by itself, sealed, isolated, without site-packages and with next to no environment.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.runtime.oci.code_store import CodeStore

_ENTERING = frozenset({"create", "run", "exec"})
_stores: list[CodeStore] = []
_KEPT = ("LISTEN_FDS", "LISTEN_PID", "XDG_RUNTIME_DIR")
# No collection of garbage that a process of some milliseconds makes. What is imported is compiled and kept for the next
# time, which is why others must not be able to write to files that are made here, whatever the caller's umask.
_START = (
    "import gc, posix, sys; gc.disable(); posix.umask(0o22 | posix.umask(0o22)); "
    "sys.path.insert(0, {source!r} + '/orlop/runtime/oci'); import code_store; sys.path[0] = {source!r}; "
    "store = code_store.CodeStore(); store.install(); "
    "from orlop.runtime.oci.main import sealed_entry; sealed_entry(store)"
)


def entry(store: CodeStore) -> NoReturn:
    """Run ``sys.argv``; the installed script's function."""
    arguments = sys.argv[1:]
    # A value of a global option may look like a verb; being sealed for nothing does no harm.
    if not _ENTERING.isdisjoint(arguments):
        _become_sealed(arguments)
    _stores.append(store)
    status = _run(arguments)
    complete_code()
    _exit(status)


def sealed_entry(store: CodeStore) -> NoReturn:
    """Run ``sys.argv`` in the sealed interpreter, or refuse if it is not."""
    from orlop.runtime.interpreter import is_sealed

    if not is_sealed():
        sys.stderr.write("orlop-runtime: the interpreter is not sealed\n")
        _exit(1)
    _stores.append(store)
    _exit(_run(sys.argv[1:]))


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


def _become_sealed(arguments: list[str]) -> None:
    """Replace this process; returns only when the kernel refuses, and then nothing enters a container."""
    from orlop.errors import SystemFailureError
    from orlop.runtime.interpreter import open_sealed_interpreter, source_directory

    try:
        interpreter = open_sealed_interpreter()
    except SystemFailureError as error:
        sys.stderr.write(f"orlop-runtime: {error}\n")
        sys.exit(1)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    start = _START.format(source=source_directory())
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", start, *arguments]
    os.execve(f"/proc/self/fd/{interpreter.fileno()}", command, environment)
