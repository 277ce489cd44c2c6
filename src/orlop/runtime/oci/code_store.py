"""The modules of ``orlop-runtime`` in one file, so that a start looks for one file instead of eighty.

A runtime is started for every container. Python looks for each module in each directory, opens it, asks for its size
and reads it: a dozen system calls and a tenth of a millisecond a module. Here the code of all modules that were ever
needed lies behind an index in ``__pycache__``, where Python keeps its own compiled files:

    16 bytes   Python's magic number, this format's version and Python's optimisation, lengths of the index and the file
    index      marshalled {module: (source file, is a package, its time, its size, offset of the code, length)}
    code       marshalled, as in .pyc files

It is trusted as those are: it lies in the package's own directory, and a module's code counts only as long as its
source has the same time and size. What is missing, Python's own importer finds, and ``code_writing.py`` adds it
afterwards. A file that others than root or ourselves could have written does not count.

This module is imported by itself, from its directory and before there is a package: it needs built-in modules only.
"""

from __future__ import annotations

import fcntl
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any, NoReturn

    # source file, is a package, modification time in seconds, size in bytes, offset, length
    Entry = tuple[str, bool, int, int, int, int]

_VERSION = 2
HEAD = 16
# of the standard library what every start needs; what few need would only make the index longer
_WITH = frozenset({"struct"})
# Descriptors from 3 on are the caller's (``--preserve-fds``): ours is none that he could mean.
_FIRST_FD = 1000
_OTHERS_MAY_WRITE = 0o022
_REGULAR, _KIND = 0o100000, 0o170000


def directory() -> str:
    """Return the directory that the file is in."""
    return f"{__file__.rpartition('/')[0]}/__pycache__"


def file_name() -> str:
    """Return the path of the file for this interpreter."""
    return f"{directory()}/orlop-runtime.{sys.implementation.cache_tag}.code"


def head(index: int, whole: int) -> bytes:
    """Return the first bytes of a file that this interpreter can use, with an index and a whole of so many bytes."""
    versions = MAGIC_NUMBER + bytes([_VERSION, sys.flags.optimize, 0, 0])
    return versions + index.to_bytes(4, "little") + whole.to_bytes(4, "little")


def start(source: str, *, again: bool = False) -> NoReturn:
    """Run ``sys.argv`` with modules from the file; see ``main.entry``.

    Args:
        source: the directory that the ``orlop`` package is in; it takes the first place of ``sys.path``.
        again: handed on.
    """
    sys.path[0] = source
    store = CodeStore()
    store.install()
    from orlop.runtime.oci.main import entry

    entry(store, again=again)


class CodeStore:
    """A finder and loader of the modules in the file. ``entries`` and ``code`` are for who completes it."""

    def __init__(self) -> None:
        """Open the file and read its index; without a usable file there are no modules in it."""
        self.entries: dict[str, Entry] = {}
        self._missed: list[str] = []
        try:
            self._fd = _open(file_name())
        except OSError:
            return
        state = posix.fstat(self._fd)
        first = posix.pread(self._fd, HEAD, 0)
        length = int.from_bytes(first[8:12], "little")
        if (
            first == head(length, state.st_size)
            and state.st_uid in {0, posix.geteuid()}
            and state.st_mode & _KIND == _REGULAR
            and not state.st_mode & _OTHERS_MAY_WRITE
        ):
            self.entries = marshal.loads(posix.pread(self._fd, length, HEAD))  # noqa: S302 - as Python's own importer

    def install(self) -> None:
        """Be asked before the other finders."""
        sys.meta_path.insert(0, self)

    def missed(self) -> list[str]:
        """Return the modules of source files that were loaded by others, if this user may add them to the file."""
        names = [name for name in self._missed if name.startswith("orlop") or name in _WITH]
        specs = [(name, getattr(sys.modules.get(name), "__spec__", None)) for name in names]
        missed = [name for name, spec in specs if spec is not None and spec.cached is not None]
        return missed if missed and posix.access(directory(), posix.W_OK) else []

    def code(self, entry: Entry) -> bytes:
        """Return the marshalled code of a module. Raises OSError."""
        return posix.pread(self._fd, entry[5], entry[4])

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module whose source is as it was when it was compiled."""
        entry = self.entries.get(name)
        if entry is None or not _is_current(entry):
            self._missed.append(name)
            return None
        source, is_package = entry[:2]
        spec: Any = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec  # type: ignore[no-any-return]

    def create_module(self, _spec: ModuleSpec) -> None:
        """Have an ordinary module made."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code in it."""
        code: CodeType = marshal.loads(self.code(self.entries[module.__name__]))  # noqa: S302 - as Python's own importer
        exec(code, module.__dict__)  # noqa: S102 - likewise


def _open(path: str) -> int:
    """Open the file with a descriptor that does not get in anybody's way. Raises OSError."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    except OSError:  # a low limit of descriptors
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, fd + 1)
    finally:
        posix.close(fd)


def _is_current(entry: Entry) -> bool:
    """Whether the source is what the code was compiled from."""
    try:
        state = posix.stat(entry[0])
    except OSError:
        return False
    return int(state.st_mtime) == entry[2] and state.st_size == entry[3]
