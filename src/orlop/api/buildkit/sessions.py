"""The sessions that clients have open (``POST /session``), by the names that their builds know them by."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from orlop.api.grpc.channel import Channel

_SECONDS = 5.0  # in which a build's session has to come, as in BuildKit


@dataclass(frozen=True, slots=True)
class OpenSession:
    """One session.

    Attributes:
        channel: to the client.
        shared_key: the client's name of the directory that it builds; empty for none.
    """

    channel: Channel
    shared_key: str


class OpenSessions:
    """Owns none of them: they are here as long as their connections."""

    def __init__(self) -> None:
        self._open: dict[str, OpenSession] = {}
        self._came = asyncio.Event()

    def require_new(self, name: str) -> None:
        """Raise ConflictError if there is one of this name."""
        if name in self._open:
            raise ConflictError(f"session {name[:80]} already exists")

    def add(self, name: str, session: OpenSession) -> None:
        """Know a session."""
        self._open[name] = session
        came, self._came = self._came, asyncio.Event()
        came.set()

    def remove(self, name: str) -> None:
        """Know it no more."""
        self._open.pop(name, None)

    async def wait(self, name: str) -> OpenSession:
        """Return a session, which may be about to come. Raises NotFoundError."""
        try:
            async with asyncio.timeout(_SECONDS):
                while name not in self._open:
                    await self._came.wait()
        except TimeoutError:
            raise NotFoundError(f"no active session for {name}: context deadline exceeded") from None
        return self._open[name]
