"""Between a client and an engine: notes what is asked, and gives other answers than the engine would."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HEAD = 1 << 16
_VERSION = re.compile(r"^/v[0-9.]+(?=/)")


class AlteringRelay:
    """Listens at ``path``; one request for each connection.

    Args:
        path: of the socket.
        engine: socket of the engine.
        answers: what is said instead, by path without its version: a whole answer.
        headers: changes the head of an answer to ``/_ping``.
    """

    def __init__(
        self, path: Path, engine: Path, *, answers: dict[str, bytes], headers: Callable[[bytes], bytes]
    ) -> None:
        self.requests: list[str] = []
        self.path = path
        self._engine = engine
        self._answers = answers
        self._headers = headers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> AlteringRelay:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)

    def _start(self, work: Callable[..., None], *given: socket.socket) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head, rest = _head(client)
            if not head:
                return
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            path = _VERSION.sub("", target.partition("?")[0])
            self.requests.append(f"{method} {path}")
            if path in self._answers:
                client.sendall(self._answers[path])
                return
            if b"upgrade" not in head.lower():
                head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(str(self._engine))
                engine.sendall(head + rest)
                if path == "/_ping":
                    answer, rest = _head(engine)
                    client.sendall(self._headers(answer) + rest)
                back = threading.Thread(target=_copy, args=(engine, client), daemon=True)
                back.start()
                _copy(client, engine)
                back.join(60)


def _head(stream: socket.socket) -> tuple[bytes, bytes]:
    """Read the head of a message; returns it and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = stream.recv(_HEAD)
        if not piece:
            return b"", b""
        data += piece
    head, end, rest = data.partition(b"\r\n\r\n")
    return head + end, rest


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_HEAD):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
