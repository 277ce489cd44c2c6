"""Docker's progress stream: what a client sees of a pull, push or load.

Documents are kept until the client takes them. Progress of the same layer that the client did not take in time is
replaced by the newer one, so a client that does not read holds up nothing and takes no memory.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_INTERVAL = 0.1
_BAR = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

Document = dict[str, object]


class Output:
    """Owns the documents that one client has still to be sent."""

    def __init__(self) -> None:
        self._documents: dict[object, Document] = {}
        self._count = 0
        self._ready = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False
        self._last: dict[str, float] = {}
        self.began = False  # whether anything was ever put

    def message(self, status: str, *, name: str = "") -> None:
        """Put a line."""
        self._put({"status": status, **({"id": name} if name else {})})

    def stream(self, text: str) -> None:
        """Put text as it is (``docker load``)."""
        self._put({"stream": text})

    def aux(self, value: Document) -> None:
        """Put what programs read."""
        self._put({"progressDetail": {}, "aux": value})

    def error(self, text: str) -> None:
        """Put an error, which is the last that the client reads."""
        self._put({"errorDetail": {"message": text}, "error": text})

    def update(self, name: str, status: str, current: int = 0, total: int = 0) -> None:
        """Put the state of one layer; with ``total`` it is a bar, of which at most ten a second are sent."""
        if not total:
            self._last.pop(name, None)
            self._put({"status": status, "progressDetail": {}, "id": name})
            return
        now = time.monotonic()
        if now - self._last.get(name, 0.0) < _INTERVAL and current < total:
            return
        self._last[name] = now
        document: Document = {
            "status": status,
            "progressDetail": {"current": current, "total": total},
            "progress": render_bar(current, total),
            "id": name,
        }
        self._put(document, key=(name, status))

    def put(self, document: Document) -> None:
        """Put a document as it is."""
        self._put(document)

    async def wait_room(self, most: int) -> None:
        """Wait while the client has more than so many documents still to be sent."""
        while len(self._documents) > most and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def _put(self, document: Document, key: object | None = None) -> None:
        self.began = True
        if key is None:
            self._count += 1
            key = self._count
        self._documents[key] = document
        self._ready.set()

    def close(self) -> None:
        """Say that nothing more will come."""
        self._closed = True
        self._ready.set()

    async def documents(self) -> AsyncIterator[list[Document]]:
        """Yield what is there, whenever something is, until :meth:`close`."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            batch, self._documents = list(self._documents.values()), {}
            self._taken.set()
            if batch:
                yield batch
            elif self._closed:
                return
            if self._closed:
                self._ready.set()


def render_bar(current: int, total: int) -> str:
    """Return Docker's bar, for clients that do not draw their own."""
    filled = min(current * 100 // max(total, 1) // 2, _BAR)
    return f"[{'=' * filled}>{' ' * (_BAR - filled)}] {human_size(current):>8}/{human_size(total)}"


def human_size(size: float) -> str:
    """Return a size as Docker writes it: four digits, powers of 1000."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{_UNITS[unit]}"
