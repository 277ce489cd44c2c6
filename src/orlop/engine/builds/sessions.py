"""What a build needs that Docker's ``POST /build`` cannot carry: secrets, agents, and contexts that travel by content.

A session is made before its build, named by it (``session=``), and ends with it; one whose build never comes is
forgotten after a while. Everything is kept in memory: a secret is on no disk, in no log and in no error (threats.md
F9, H9), and is gone with the session.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from orlop.engine.builds.agents import Agent
from orlop.engine.builds.client import EVERYTHING
from orlop.engine.builds.context_files import parse_manifest
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, UnavailableError
from orlop.image.feed import in_thread

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping

    from orlop.engine.builds.client import Choice
    from orlop.engine.builds.context_files import ContextFiles
    from orlop.engine.builds.context_tree import Entry

SECRET_LIMIT = 500 << 10  # bytes, as in BuildKit
KEPT_BYTES = 2 << 30  # of contents
_MOST_SECRETS = 100
_MOST_SESSIONS = 256
_IDLE_SECONDS = 600.0
_BATCH = 1 << 20

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^/\x00-\x1f]+$")]


class SessionRequest(msgspec.Struct, rename="pascal"):
    """``POST /build/sessions``.

    Attributes:
        secrets: by their ids, base64.
        agents: names of SSH agents that the client will connect.
        contexts: where named contexts come from: ``session``, ``docker-image://NAME``, or a URL.
        known_hosts: the client's, for git over SSH.
    """

    secrets: dict[Name, str] = {}
    agents: list[Name] = []
    contexts: dict[Name, str] = {}
    known_hosts: Annotated[str, msgspec.Meta(max_length=1 << 20)] = ""


class Session:
    """One client's build to be; fulfils ``client.BuildClient``."""

    chooses = True

    def __init__(self, request: SessionRequest, files: ContextFiles) -> None:
        self.id = secrets.token_hex(16)
        self.contexts: Mapping[str, str] = dict(request.contexts)
        self.manifests: dict[str, list[Entry]] = {}
        self.state: Literal["idle", "building", "ended"] = "idle"
        self.touched = time.monotonic()
        self._secrets = {name: _decode(name, text) for name, text in request.secrets.items()}
        self._agents = {name: Agent() for name in request.agents}
        self._known_hosts = request.known_hosts
        self._files = files
        self._using = contextlib.ExitStack()

    async def secret(self, name: str) -> bytes | None:
        """Return a secret's bytes; None when the client has none of this name."""
        return self._secrets.get(name)

    async def has_agent(self, name: str) -> bool:
        """Tell whether the client forwards an SSH agent of this name."""
        return name in self._agents

    async def connect_agent(self, name: str) -> socket.socket:
        """Return a stream to the client's agent, which the caller owns.

        Raises:
            UnavailableError: the client has gone.
            NotFoundError: it forwards none of this name.
        """
        return await self.agent(name).connect()

    def holds(self, name: str) -> bool:
        """Tell whether a manifest of this name came."""
        return name in self.manifests

    async def lay_out(self, name: str, target: str, choice: Choice = EVERYTHING) -> None:
        """Make the files of a manifest: the client has chosen them already."""
        del choice
        if name not in self.manifests:
            raise InvalidParameterError(f"the session does not hold the context: {name}")
        entries = self.manifests[name]
        async with self._files.turns:
            await in_thread(lambda place: self._files.lay_out(entries, place), target)

    def upload(self, url: str) -> AsyncIterator[bytes] | None:
        """It sends nothing but what its manifests name."""
        del url
        return None

    def known_hosts(self) -> str:
        """Return the client's known_hosts."""
        return self._known_hosts

    def agent(self, name: str) -> Agent:
        """Return an agent's connection. Raises NotFoundError."""
        if name not in self._agents:
            raise NotFoundError(f"the client forwards no SSH agent: {name}")
        return self._agents[name]

    def close(self) -> None:
        """Forget everything."""
        for agent in self._agents.values():
            agent.close()
        self.state = "ended"
        self._secrets.clear()
        self.manifests.clear()
        self._using.close()

    def bring(self) -> None:
        """Keep contents that are of use from now on, until the end. Raises NotFoundError: that has come."""
        if self.state == "ended":
            raise NotFoundError(f"No such build session: {self.id}")
        if not self.manifests:
            self._using.enter_context(self._files.in_use())


def _decode(name: str, text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameterError(f"invalid secret: not base64: {name}") from None
    if len(data) > SECRET_LIMIT:
        raise InvalidParameterError(f"invalid secret: more than {SECRET_LIMIT} bytes: {name}")
    return data


class Sessions:
    """Owns the sessions of one engine."""

    def __init__(self, files: ContextFiles) -> None:
        self.files = files
        self._sessions: dict[str, Session] = {}
        self._trimming: asyncio.Future[int] | None = None
        self._looking: asyncio.TimerHandle | None = None

    def create(self, request: SessionRequest) -> Session:
        """Begin a session.

        Raises:
            InvalidParameterError: a secret that is none.
            UnavailableError: too many.
        """
        if len(self._sessions) >= _MOST_SESSIONS:
            raise UnavailableError(f"too many build sessions: {len(self._sessions)}")
        if len(request.secrets) > _MOST_SECRETS:
            raise InvalidParameterError(f"too many secrets: {len(request.secrets)}")
        session = Session(request, self.files)
        self._sessions[session.id] = session
        if self._looking is None:
            self._forget_idle()
        return session

    def _forget_idle(self) -> None:
        """End the sessions whose time is up, and look again when the next one's is."""
        now = time.monotonic()
        idle = [session for session in self._sessions.values() if session.state == "idle"]
        for session in idle:
            if session.touched + _IDLE_SECONDS <= now:
                self.end(session)
        waits = [session.touched + _IDLE_SECONDS - now for session in idle if session.state == "idle"]
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(min(waits), self._forget_idle) if waits else None

    def get(self, session_id: str) -> Session:
        """Return a session. Raises NotFoundError."""
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFoundError(f"No such build session: {session_id}")
        session.touched = time.monotonic()
        return session

    def take(self, session_id: str) -> Session:
        """Return a session for its build. Raises NotFoundError; ConflictError: it has one."""
        session = self.get(session_id)
        if session.state == "building":
            raise ConflictError(f"build session is in use: {session_id}")
        session.state = "building"
        return session

    def refuse(self, session_id: str) -> None:
        """Forget a session whose build was refused; nothing if there is none, or another build has it."""
        session = self._sessions.get(session_id)
        if session is not None and session.state == "idle":
            self.end(session)

    def end(self, session: Session) -> None:
        """Forget a session, and contents that were of no use for long when there are too many."""
        self._sessions.pop(session.id, None)
        brought = bool(session.manifests)
        session.close()
        if brought:
            self._trimming = asyncio.get_running_loop().run_in_executor(None, self.files.trim, KEPT_BYTES)

    def close(self) -> None:
        """Forget all."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for session in list(self._sessions.values()):
            self.end(session)

    async def announce(self, session: Session, name: str, data: bytes) -> list[str]:
        """Take a context's manifest; returns the digests of what is to be sent. Raises InvalidParameterError."""
        entries = await asyncio.to_thread(parse_manifest, data)
        session.bring()
        missing = await asyncio.to_thread(self.files.missing, entries)
        session.manifests[name] = entries
        return missing

    async def receive(self, stream: AsyncIterator[bytes]) -> None:
        """Take contents, as ``context_files.Receiver`` does. Raises InvalidParameterError, SystemFailureError."""
        receiver = self.files.receive()
        batch: list[bytes] = []
        size = 0
        try:
            async for piece in stream:
                batch.append(piece)
                size += len(piece)
                if size >= _BATCH:
                    await in_thread(receiver.feed, b"".join(batch))
                    batch, size = [], 0
            await in_thread(receiver.feed, b"".join(batch))
            receiver.finish()
        finally:
            receiver.close()
