"""The name server of one container: two sockets inside its namespace, served by the engine's event loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from orlop.network.dns import message

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from orlop.network.dns.names import View
    from orlop.network.dns.upstream import Upstream

_BURST = 64  # datagrams that are read before others get their turn
_MOST_STREAMS = 32  # TCP connections of one container
_STREAM_SECONDS = 10.0
_Peer = tuple[str, int]
_log = logging.getLogger(__name__)


class NameServer:
    """Answers one container's questions.

    Args:
        udp: bound inside the container's namespace; owned.
        tcp: listening there; owned.
        view: the names that the container may know; replaced when its networks change.
        upstream: where all other questions go; None: nowhere (threats.md G2).
    """

    def __init__(self, udp: socket.socket, tcp: socket.socket, *, view: View, upstream: Upstream | None) -> None:
        self._udp = udp
        self._tcp = tcp
        self.view = view
        self._upstream = upstream
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams = 0
        for sock in (udp, tcp):
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(udp.fileno(), self._read)
        loop.add_reader(tcp.fileno(), self._accept)

    def replace_upstream(self, upstream: Upstream | None) -> None:
        """Ask others from now on."""
        if self._upstream is not None:
            self._upstream.close()
        self._upstream = upstream

    def close(self) -> None:
        """Stop answering."""
        loop = asyncio.get_running_loop()
        for sock in (self._udp, self._tcp):
            loop.remove_reader(sock.fileno())
            sock.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._upstream is not None:
            self._upstream.close()

    def _read(self) -> None:
        for _ in range(_BURST):
            try:
                data, peer = self._udp.recvfrom(message.LONGEST)
            except OSError:
                return
            answer = self.view.recall(data)
            if answer is None:
                self._consider(data, peer)
            else:
                self._send(answer, peer)

    def _consider(self, data: bytes, peer: _Peer) -> None:
        """Answer a datagram that was not answered before."""
        try:
            query = message.parse_query(data)
        except message.MessageError as error:
            self._send(error.reply, peer)
            return
        answer = self.view.answer(query, tcp=False)
        if answer is not None:
            self.view.remember(data, answer)
            self._send(answer, peer)
        elif self._upstream is None:
            self._send(message.build_answer(query, code=message.SERVER_FAILURE), peer)
        else:
            self._spawn(self._forward(query, data, peer))

    def _send(self, data: bytes, peer: _Peer) -> None:
        if data:
            try:
                self._udp.sendto(data, peer)
            except OSError:
                return  # a full socket buffer: the client asks again

    async def _forward(self, query: message.Query, data: bytes, peer: _Peer) -> None:
        answer = await self._ask(query, data, tcp=False)
        if len(answer) > query.size:
            answer = message.truncated(answer, query.question)
        self._send(answer, peer)

    async def _ask(self, query: message.Query, data: bytes, *, tcp: bool) -> bytes:
        found = await self._upstream.ask(query, data, tcp=tcp) if self._upstream is not None else None
        return found or message.build_answer(query, code=message.SERVER_FAILURE, tcp=tcp)

    def _accept(self) -> None:
        try:
            sock, _ = self._tcp.accept()
        except OSError:
            return
        if self._streams >= _MOST_STREAMS:
            sock.close()
            return
        sock.setblocking(False)
        self._spawn(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        self._streams += 1
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                async with asyncio.timeout(_STREAM_SECONDS):
                    while True:
                        writer.write(await self._answer_stream(reader))
                        await writer.drain()
            except (OSError, TimeoutError, EOFError, message.MessageError):
                pass  # the client is done, or sends nonsense
            finally:
                writer.close()
        finally:
            self._streams -= 1

    async def _answer_stream(self, reader: asyncio.StreamReader) -> bytes:
        length = int.from_bytes(await reader.readexactly(2), "big")
        data = await reader.readexactly(length)
        query = message.parse_query(data)
        answer = self.view.answer(query, tcp=True) or await self._ask(query, data, tcp=True)
        return len(answer).to_bytes(2, "big") + answer

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("name server: %s", error, exc_info=error)
