"""Directory trees that are to go when nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from orlop.errors import OrlopError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger(__name__)

# Seconds before a tree is tried again whose remover died; a tree that outlives all is left to the next start.
_RETRIES = (0.5, 1.0, 2.0, 4.0, 8.0)


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
        self._failures: dict[str, int] = {}
        self._current: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> frozenset[str]:
        """What is being removed or waits for it."""
        return frozenset((*self._waiting, *self._current))

    def bury(self, paths: Iterable[str]) -> None:
        """Remove these soon. What a crash leaves is found by its owner at the next start."""
        self._waiting.extend(paths)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            path = self._waiting.pop(0)
            self._current = (path,)
            try:
                await self._remover.remove_tree(path)
            except UnavailableError as error:
                await self._try_again(path, error)
            except OrlopError as error:
                _log.warning("cannot remove %s: %s", path, error)
            else:
                self._failures.pop(path, None)
            self._current = ()

    async def _try_again(self, path: str, error: UnavailableError) -> None:
        failures = self._failures.pop(path, 0)
        if failures == len(_RETRIES):
            _log.warning("cannot remove %s: %s", path, error)
            return
        self._failures[path] = failures + 1
        self._waiting.insert(0, path)
        await asyncio.sleep(_RETRIES[failures])

    async def settle(self) -> None:
        """Wait until all is removed."""
        if self._task is not None:
            await self._task
