"""Directory trees that are to go when nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from orlop.errors import OrlopError

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger(__name__)


class TreeRemover(Protocol):
    """Who removes a tree, in a process of its own."""

    async def remove_tree(self, path: str) -> None:
        """Remove a directory and all below it; a missing one is fine."""
        ...


class Removals:
    """Owns the background tasks that remove trees, one after the other."""

    def __init__(self, remover: TreeRemover) -> None:
        self._remover = remover
        self._waiting: list[str] = []
        self._task: asyncio.Task[None] | None = None

    def bury(self, paths: Iterable[str]) -> None:
        """Remove these soon. What a crash leaves is found by its owner at the next start."""
        self._waiting.extend(paths)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            path = self._waiting.pop(0)
            try:
                await self._remover.remove_tree(path)
            except OrlopError as error:
                _log.warning("cannot remove %s: %s", path, error)

    async def settle(self) -> None:
        """Wait until all is removed."""
        if self._task is not None:
            await self._task
