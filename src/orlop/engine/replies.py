"""How the engine hears of what it asked the spawner's children to do: once, several times, or again and again."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from orlop.engine.packets import PacketSocket
from orlop.engine.shims import error_of
from orlop.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.json import JsonObject

    # sends a request to the spawner with the child's end of its reply channel, which is taken over, and descriptors
    Send = Callable[[JsonObject, socket.socket, Sequence[int]], Awaitable[None]]
    Answer = asyncio.Future[tuple[JsonObject, list[OwnedFd]]]

# Seconds that a child is kept without work: longer than a request to the API and the next, about 2 MB each.
IDLE_SECONDS = 1.0


class Conversation:
    """The answers to one request; owns the engine's end of its channel."""

    def __init__(self, ours: socket.socket) -> None:
        self._answers: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        self._packets = PacketSocket(ours, self._received, lambda: self._answers.put_nowait(None))

    def _received(self, message: JsonObject, fds: list[OwnedFd]) -> None:
        for fd in fds:
            fd.close()
        self._answers.put_nowait(message)

    async def next(self) -> JsonObject:
        """Return the next answer.

        Raises:
            OrlopError: the class that the answer's ``kind`` names.
            UnavailableError: the child that worked on it died.
        """
        message = await self._answers.get()
        if message is None:
            raise UnavailableError("the process that worked on the request died")
        if message.get("ok") is not True:
            raise error_of(message)
        return message

    def close(self) -> None:
        """Listen no longer."""
        self._packets.close()


class StandingChild:
    """A child that does one of ``runtime.spawner.REPEATED`` again and again: a fork less for each container.

    It is let go when it failed, or had nothing to do for :data:`IDLE_SECONDS`. Owns the engine's end of its channel.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._packets: PacketSocket | None = None
        self._answer: Answer | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether somebody waits for its answer: nobody else may ask it meanwhile."""
        return self._answer is not None

    async def request(self, message: JsonObject) -> tuple[JsonObject, list[OwnedFd]]:
        """Ask it, or a new one; the answer's descriptors are the caller's.

        Raises:
            OrlopError: the class that the answer's ``kind`` names.
            UnavailableError: the spawner, or the child, died.
        """
        loop = asyncio.get_running_loop()
        if self._idle is not None:
            self._idle.cancel()
        answer = self._answer = loop.create_future()
        try:
            if not await self._sent_again(message):
                ours, theirs = pair()
                self._packets = PacketSocket(ours, self._received, self._lost)
                await self._send(message, theirs, ())
            got: tuple[JsonObject, list[OwnedFd]] = await answer
        except BaseException:
            self.close()  # what it may still answer is for nobody
            raise
        finally:
            self._answer = None
        self._idle = loop.call_later(IDLE_SECONDS, self.close)
        return got

    async def _sent_again(self, message: JsonObject) -> bool:
        if self._packets is None or not self._packets.is_open:
            return False
        try:
            await self._packets.send(message)
        except OSError:  # it died, which nobody has read yet
            self._packets.close()
            return False
        return True

    def _received(self, message: JsonObject, fds: list[OwnedFd]) -> None:
        if self._answer is not None:
            deliver(self._answer, message, fds)
            return
        for fd in fds:
            fd.close()

    def _lost(self) -> None:
        if self._answer is not None:
            lost(self._answer)

    def close(self) -> None:
        """Let it go."""
        if self._packets is not None:
            self._packets.close()
        if self._idle is not None:
            self._idle.cancel()


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a reply channel, the engine's first."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def deliver(answer: Answer, message: JsonObject, fds: list[OwnedFd]) -> None:
    """Give an answer to who waits; what nobody waits for any more is closed."""
    if not answer.done() and message.get("ok") is True:
        answer.set_result((message, fds))
        return
    for fd in fds:
        fd.close()
    if not answer.done():
        answer.set_exception(error_of(message))


def lost(answer: Answer) -> None:
    """Tell who waits that no answer will come."""
    if not answer.done():
        answer.set_exception(UnavailableError("the process that worked on the request died"))
