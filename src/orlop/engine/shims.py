"""The engine's side of a shim's control channel (docs/concepts/processes.md)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.engine.packets import PacketSocket
from orlop.errors import InvalidParameterError, OrlopError, UnavailableError, from_kind
from orlop.spec.launch import AttachTarget, ExitRecord, from_message, to_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.json import JsonObject

# A shim answers from a loop that never blocks; one that is silent for this long is stopped or swapped out.
_ANSWER_SECONDS = 10.0
# A start takes milliseconds; a bind source on a dead network file system takes for ever, and the lock must not.
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Started:
    """The program runs.

    Attributes:
        pid: of the container's init, in the engine's pid namespace.
        start_time: clock ticks since boot, field 22 of /proc/pid/stat: with ``pid`` it names the process for ever.
        started_at: nanoseconds since the epoch.
        pidfd: of init; the receiver owns it.
    """

    pid: int
    start_time: int
    started_at: int
    pidfd: OwnedFd


class ShimConnection:
    """One control channel to one shim; owns its socket.

    Attributes:
        started: resolves when the program runs; fails with the shim's typed error when it never will.
        ended: resolves with the exit record, or None when the shim went away without one.
        oom: called at each OOM kill that the shim reports.
    """

    def __init__(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = loop.create_future()
        self.ended: asyncio.Future[ExitRecord | None] = loop.create_future()
        self.oom: Callable[[], None] = _ignore
        # Nobody has to look at these futures; without this a failed start would also be reported by the loop.
        self.started.add_done_callback(_retrieved)
        self._sequence = 0
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._packets = PacketSocket(sock, self._received, self._gone)

    async def wait_started(self) -> Started:
        """Wait until the program runs.

        Raises:
            UnavailableError: the shim says nothing for :data:`START_SECONDS`. It is to be closed then: it gives up
                a container that nobody takes over.
            OrlopError: why the program will never run.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                return await asyncio.shield(self.started)
        except TimeoutError:
            raise UnavailableError(f"container was not started within {START_SECONDS:.0f} s") from None

    async def attach(self, target: AttachTarget, client: int) -> None:
        """Give the shim a client's socket; the caller keeps (and closes) its own descriptor."""
        await self._ask("attach", [client], target=to_message(target))

    async def resize(self, height: int, width: int) -> None:
        """Set the terminal's size."""
        await self._ask("resize", height=height, width=width)

    async def signal(self, number: int) -> None:
        """Send a signal to init by its pidfd."""
        await self._ask("signal", signal=number)

    async def close_stdin(self) -> None:
        """Close the program's standard input."""
        await self._ask("close_stdin")

    async def status(self) -> None:
        """Ask for the ``started`` event (again)."""
        await self._ask("status")

    def close(self) -> None:
        """Drop the channel; the shim lives on."""
        self._packets.close()
        self._finish()

    async def _ask(self, op: str, fds: Sequence[int] = (), **fields: object) -> None:
        self._sequence += 1
        number = self._sequence
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            message: JsonObject = {"op": op, "seq": number}
            message.update(fields)  # type: ignore[arg-type]  # JSON values by construction
            await self._packets.send(message, fds)
            async with asyncio.timeout(_ANSWER_SECONDS):
                await answer
        except TimeoutError:
            raise UnavailableError(f"shim does not answer: {op}") from None
        except OSError as error:
            raise UnavailableError(f"shim is gone: {op}") from error
        finally:
            self._answers.pop(number, None)

    def _received(self, message: JsonObject, fds: list[OwnedFd]) -> None:
        try:
            self._dispatch(message, fds)
        except (KeyError, TypeError, ValueError, InvalidParameterError):
            self._packets.close()
            self._gone()
        finally:
            for fd in fds:
                fd.close()

    def _dispatch(self, message: JsonObject, fds: list[OwnedFd]) -> None:
        if "seq" in message:
            self._answered(message)
            return
        event = message.pop("event", None)
        if event == "started":
            self._has_started(message, fds)
        elif event == "failed":
            if not self.started.done():
                self.started.set_exception(error_of(message))
            if not self.ended.done():
                self.ended.set_result(None)
        elif event == "oom":
            self.oom()
        elif event == "exit":
            record = from_message(ExitRecord, message)
            if not self.ended.done():
                self.ended.set_result(record)

    def _has_started(self, message: JsonObject, fds: list[OwnedFd]) -> None:
        if self.started.done() or not fds:
            return
        values = [message[name] for name in ("pid", "start_time", "started_at")]
        numbers = [value for value in values if isinstance(value, int)]
        pid, start_time, started_at = numbers
        self.started.set_result(Started(pid, start_time, started_at, fds.pop(0)))

    def _answered(self, message: JsonObject) -> None:
        number = message["seq"]
        answer = self._answers.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            return
        if message.get("ok") is True:
            answer.set_result(None)
        else:
            answer.set_exception(error_of(message))

    def _gone(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.started.done():
            self.started.set_exception(UnavailableError("shim ended before the container was started"))
        if not self.ended.done():
            self.ended.set_result(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(UnavailableError("shim is gone"))


def _ignore() -> None:
    """Nobody listens."""


def _retrieved(future: asyncio.Future[Started]) -> None:
    if not future.cancelled():
        future.exception()


def error_of(message: JsonObject) -> OrlopError:
    """Make the error out of an answer's or event's ``error`` object."""
    error = message.get("error")
    if not isinstance(error, dict):
        return OrlopError(f"malformed answer: {message!s:.200}")
    kind, text = error.get("kind"), error.get("message")
    return from_kind(kind if isinstance(kind, str) else "internal", text if isinstance(text, str) else "")


def connect(state_dir: str) -> ShimConnection | None:
    """Connect to the shim that owns ``state_dir``; None when nobody listens there.

    The path of a unix socket is limited to 107 bytes, the exec root's is not: it is entered by descriptor.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.setblocking(False)
            sock.connect(f"/proc/self/fd/{directory}/attach.sock")
        finally:
            os.close(directory)
    except OSError:
        sock.close()
        return None
    return ShimConnection(sock)


def read_exit_record(state_dir: str) -> ExitRecord | None:
    """Return what a shim wrote about its end; None when there is nothing readable."""
    with contextlib.suppress(OSError, ValueError, InvalidParameterError):
        descriptor = os.open(f"{state_dir}/exit", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            document = json.loads(os.read(descriptor, 65536))
        finally:
            os.close(descriptor)
        if isinstance(document, dict):
            return from_message(ExitRecord, document)
    return None
