"""Nothing is loaded after a fork: a lazy import could run a Python file of the container as the host's root (J1).

Two defences that do not know of each other. :class:`Blocker` leaves the import system without anything to search;
:func:`refuse_loading` is an audit hook (PEP 578), which sees also what gets around it: ``open()`` of a source file for
a traceback, dlopen(3) of a library, compiled code from a file. A hook cannot be taken out, and forks inherit it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn


class Blocker:
    """A meta path finder that refuses everything that is not loaded yet."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> NoReturn:
        """Refuse. The name tells which module was forgotten in the spawner."""
        raise ImportError(f"import after fork: {name}")

    def install(self) -> None:
        """Make this the only finder there is."""
        sys.meta_path[:] = [self]
        sys.path[:] = []
        sys.path_hooks[:] = []
        sys.path_importer_cache.clear()


# Audit events of the standard library (its page "Audit events table") that bring code or names from files.
_REFUSED = frozenset(
    {
        *("import", "ctypes.dlopen", "compile", "exec", "code.__new__", "marshal.load", "marshal.loads"),
        *("pickle.find_class", "os.system", "subprocess.Popen", "socket.getaddrinfo", "socket.gethostbyname"),
    }
)
_refusing = False


def refuse_loading() -> None:
    """Refuse from now on, in this process and all its forks, whatever loads code or asks NSS; once is enough.

    ``os.open`` stays: it is how files are opened here, mostly relative to a descriptor. Python's own ``open()`` of a
    name, which is what tracebacks and codecs use, goes.
    """
    global _refusing
    if not _refusing:
        _refusing = True
        sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _REFUSED or (event == "open" and arguments[1] is not None):
        raise RuntimeError(f"not after a fork: {event}: {arguments[0] if arguments else ''}")
