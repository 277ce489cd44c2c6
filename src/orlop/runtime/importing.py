"""No imports after a fork: a lazy one could run a Python file of the container as the host's root (threats.md J1)."""

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
