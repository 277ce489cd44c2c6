"""The shim's control channels: the one it was born with and those accepted on ``attach.sock``."""

from __future__ import annotations

import os
import struct

from orlop.errors import InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.kernel.plain import socket
from orlop.kernel.process import start_time
from orlop.primitives.channel import Channel, ProtocolError
from orlop.primitives.json_text import dumps
from orlop.primitives.scope import suppress
from orlop.spec.launch import AttachTarget, ExitRecord, from_message, to_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.container import RunningProcess
    from orlop.runtime.streams import Streams
    from orlop.spec.json import JsonObject
else:
    Protocol = object

_UCRED = struct.Struct("3i")  # pid, uid, gid
_BACKLOG = 16
SOCKET_NAME = "attach.sock"
_SIGNALS = range(65)


class Served(Protocol):
    """What a control channel can ask of the loop."""

    running: RunningProcess
    streams: Streams
    started_at: int

    def watch(self, fd: int, callback: Callable[[int], object]) -> None:
        """Call back when readable."""

    def unwatch(self, fd: int) -> None:
        """Stop that."""

    def attach(self, sock: socket.socket, target: AttachTarget) -> None:
        """Serve one more client."""

    def send_signal(self, number: int) -> None:
        """Signal the process."""

    def close_stdin(self) -> None:
        """End the program's input."""


def encode_record(record: ExitRecord) -> bytes:
    """Return the content of the exit file."""
    return dumps(to_message(record)).encode()


def started_event(pid: int, started_at: int) -> JsonObject:
    """Return the ``started`` event; the process's pidfd goes with it."""
    try:
        since = start_time(pid)
    except OSError:
        since = 0
    return {"event": "started", "pid": pid, "start_time": since, "started_at": started_at}


def listen(state_dir: str) -> socket.socket:
    """Accept engines on ``attach.sock``, 0600; a path longer than a socket's name is reached by its directory."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, SOCKET_NAME))
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    finally:
        os.umask(mask)
        os.close(directory)
    listener.listen(_BACKLOG)
    return listener


class Control:
    """Owns the channels and the listening socket. A channel that cannot take a message now is closed."""

    def __init__(self, served: Served, state_dir: str) -> None:
        self._served = served
        self._path = os.path.join(state_dir, SOCKET_NAME)
        self._channels: list[Channel] = []
        self._listener: socket.socket | None = None

    def add(self, channel: Channel) -> None:
        """Serve a channel."""
        channel.set_blocking(False)
        self._channels.append(channel)
        self._served.watch(channel.fileno(), lambda _mask: self._on_message(channel))

    def serve(self, listener: socket.socket) -> None:
        """Accept engines; the socket is owned from here on."""
        self._listener = listener
        self._served.watch(listener.fileno(), self._on_connection)

    def _on_connection(self, _mask: int) -> None:
        if self._listener is None:
            return
        try:
            number, _ = self._listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - of the C half
        except OSError:
            return
        sock = socket.socket(fileno=number)
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in {0, os.geteuid()}:
            sock.close()
            return
        self.add(Channel(sock))

    def broadcast(self, message: JsonObject, fds: tuple[int, ...] = ()) -> None:
        """Tell everybody."""
        for channel in list(self._channels):
            self._send(channel, message, fds)

    def broadcast_started(self) -> bool:
        """Tell everybody that the program runs, with its pidfd; False when nobody is there to hear it."""
        for channel in list(self._channels):
            self._send_started(channel)
        return bool(self._channels)

    def _send_started(self, channel: Channel) -> None:
        running = self._served.running
        self._send(channel, started_event(running.pid, self._served.started_at), (running.pidfd.fileno(),))

    def _send(self, channel: Channel, message: JsonObject, fds: tuple[int, ...] = ()) -> None:
        try:
            channel.send(message, fds)
        except OSError:  # also BlockingIOError: an engine that does not read is as good as gone
            self._close(channel)

    def _close(self, channel: Channel) -> None:
        if channel in self._channels:
            self._channels.remove(channel)
            self._served.unwatch(channel.fileno())
            channel.close()

    def _on_message(self, channel: Channel) -> None:
        try:
            got = channel.receive()
        except BlockingIOError:
            return
        except (ProtocolError, OSError):
            got = None
        if got is None:
            self._close(channel)
            return
        message, fds = got
        answer: JsonObject = {"seq": message.get("seq"), "ok": True}
        try:
            self._do(message, fds)
        except OrlopError as error:
            answer = {"seq": message.get("seq"), "error": {"kind": error.kind, "message": str(error)}}
        except OSError as error:
            kind = NotFoundError.kind if isinstance(error, ProcessLookupError) else SystemFailureError.kind
            answer = {"seq": message.get("seq"), "error": {"kind": kind, "message": str(error)}}
        finally:
            for fd in fds:
                fd.close()
        self._send(channel, answer)
        if message.get("op") == "status":
            self._send_started(channel)

    def _do(self, message: JsonObject, fds: list[OwnedFd]) -> None:
        operation = message.get("op")
        if operation == "attach":
            target = message.get("target")
            if not isinstance(target, dict) or len(fds) != 1:
                raise InvalidParameterError("attach takes a target and a socket")
            wanted = from_message(AttachTarget, target)
            self._served.attach(socket.socket(fileno=fds.pop().release()), wanted)
        elif operation == "resize":
            height, width = _number(message, "height", 1 << 16), _number(message, "width", 1 << 16)
            if not self._served.streams.resize(height, width):
                raise InvalidParameterError("container has no terminal")
        elif operation == "signal":
            self._served.send_signal(_number(message, "signal", len(_SIGNALS)))
        elif operation == "close_stdin":
            self._served.close_stdin()
        elif operation != "status":
            raise InvalidParameterError(f"unknown operation: {operation}")

    def close_listener(self) -> None:
        """Take no more channels."""
        if self._listener is not None:
            self._served.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with suppress(OSError):
                os.unlink(self._path)

    def close(self) -> None:
        """Close every channel."""
        for channel in list(self._channels):
            self._close(channel)


def _number(message: JsonObject, name: str, limit: int) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise InvalidParameterError(f"bad {name}: {value!r:.40}")
    return value
