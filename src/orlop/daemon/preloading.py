"""An engine that runs reads no module from disk any more (threats.md J12).

``apt upgrade`` replaces the interpreter's library under a running engine, and ``pip`` its own: what was imported before
and what would be imported later do not fit together, or the later is gone. So everything is imported before the engine
serves, and what was forgotten is told in the log, where the tests look for it.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from typing import TYPE_CHECKING

import orlop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

# processes of their own
_ELSEWHERE = ("orlop.cli", "orlop.client", "orlop.runtime.oci", "orlop.daemon.main")
# What the standard library and our dependencies import inside functions, as far as an engine gets there.
_LATER = (
    "_strptime",
    "asyncio.threads",
    "concurrent.futures.thread",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.unicode_escape",
    "linecache",
    "lzma",
    "bz2",
    "stringprep",
    "traceback",
    "unicodedata",
    "zlib",
)
_log = logging.getLogger(__name__)


def preload() -> None:
    """Import all that an engine may need; from now on say which module was forgotten."""
    for name in (*_own_modules(), *_LATER):
        importlib.import_module(name)
    sys.meta_path.insert(0, _LateImports())


def _own_modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(orlop.__path__, "orlop."):
        if not found.name.startswith(_ELSEWHERE) and not found.name.endswith("__main__"):
            yield found.name


class _LateImports:
    """A meta path finder that finds nothing and says what was looked for."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        _log.warning("imported after the start: %s (threats.md J12; name it in daemon/preloading.py)", name)
