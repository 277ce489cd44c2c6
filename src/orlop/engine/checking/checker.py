"""``orlop system check``: several searches, one after the other, and their repairs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.engine.checking.finding import Finding


class Search(Protocol):
    """Looks for one sort of thing."""

    async def find(self, *, quick: bool) -> list[Finding]:
        """Return what was found, changing nothing; with ``quick`` without reading what takes long."""
        ...

    async def repair(self, findings: list[Finding]) -> list[Finding]:
        """Mend what can be mended; returns the same findings, told whether they were."""
        ...


class Checker:
    """Runs the searches, one check at a time."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = searches
        self._lock = asyncio.Lock()

    async def run(self, *, repair: bool, quick: bool = False) -> list[Finding]:
        """Return what was found, after the repair if one was asked for."""
        found = []
        async with self._lock:
            for search in self._searches:
                findings = await search.find(quick=quick)
                found.extend(await search.repair(findings) if repair else findings)
        return found
