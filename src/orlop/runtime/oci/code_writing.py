"""Completing the file of code (``code_store.py``) after a command that had to look for modules elsewhere."""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER

from orlop.primitives.atomic import write_atomic
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.oci import code_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.runtime.oci.code_store import CodeStore, Entry

_PYC_HEAD = 16  # magic number, flags, time and size of the source (PEP 552)


def complete(store: CodeStore, names: Sequence[str]) -> None:
    """Write the file anew with what is in it and the modules of these names; no error is told."""
    found: dict[str, tuple[Entry, bytes]] = {}
    try:
        for name in names:
            one = _compiled(name)
            if one is not None:
                found[name] = one
        if found:
            kept = {name: (entry, store.code(entry)) for name, entry in store.entries.items() if name not in found}
            # on the disk before it has its name: after a power cut no start would get past half of it
            write_atomic(code_store.file_name(), _file(kept | found), durable=True)
    except OSError:
        return


def _file(modules: dict[str, tuple[Entry, bytes]]) -> bytes:
    """Return the file's content. Code comes after the index, whose length depends on the places of code in it."""
    start = code_store.HEAD
    while True:
        place, entries = start, {}
        for name, (entry, code) in modules.items():
            entries[name] = (*entry[:4], place, len(code))
            place += len(code)
        index = marshal.dumps(entries)
        if code_store.HEAD + len(index) == start:
            return b"".join([code_store.head(len(index), place), index, *[code for _, code in modules.values()]])
        start = code_store.HEAD + len(index)


def _compiled(name: str) -> tuple[Entry, bytes] | None:
    """Return what Python's own cache has of a loaded module, if that is what its source is now. Raises OSError."""
    spec = sys.modules[name].__spec__
    if spec is None or spec.name != name or not spec.origin or not spec.cached:
        return None
    state = os.stat(spec.origin)
    with OwnedFd(os.open(spec.cached, os.O_RDONLY | os.O_CLOEXEC)) as file:
        compiled = os.read(file.fileno(), os.fstat(file.fileno()).st_size)
    times = int(state.st_mtime).to_bytes(4, "little") + state.st_size.to_bytes(4, "little")
    if compiled[:_PYC_HEAD] != MAGIC_NUMBER + bytes(4) + times:
        return None
    package = spec.submodule_search_locations is not None
    return (spec.origin, package, int(state.st_mtime), state.st_size, 0, 0), compiled[_PYC_HEAD:]
