"""The two ways into ``orlop-runtime`` after ``start.py``; verbs that enter a container run sealed (threats.md A1)."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from orlop.runtime.oci.code_store import CodeStore

_stores: list[CodeStore] = []


def entry(store: CodeStore | None = None) -> NoReturn:
    """Run ``sys.argv``, a verb that enters no container, in whatever interpreter the machine has.

    Called with another verb, or without ``start.py`` having been first, it begins there.
    """
    from orlop.runtime.oci import start

    if store is None or start.enters(sys.argv[1:]):
        from orlop.runtime.interpreter import source_directory

        start.main(source_directory())
    _stores.append(store)
    status = _run(sys.argv[1:])
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
