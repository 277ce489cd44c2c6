"""The shim's control channels: the one it was born with and those accepted on ``attach.sock``."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Protocol

from orlop.errors import InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.primitives.channel import Channel, ProtocolError
from orlop.spec.launch import AttachTarget, ExitRecord, from_message, to_message

if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.container import RunningProcess
    from orlop.runtime.streams import Streams
    from orlop.spec.json import JsonObject

_UCRED = struct.Struct("3i")  # pid, uid, gid
_BACKLOG = 16
_SIGNALS = range(65)


class Served(Protocol):
    """What a control channel can ask of the loop."""

    running: RunningProcess
    streams: Streams

    def started_fields(self) -> dict[str, int]:
        """Return what the ``started`` event says."""
        ...

    def watch(self, fd: int, callback: object) -> None:
        """Call back when readable."""
        ...

    def unwatch(self, fd: int) -> None:
        """Stop that."""
        ...

    def attach(self, sock: socket.socket, target: AttachTarget) -> None:
        """Serve one more client."""
        ...

    def send_signal(self, number: int) -> None:
        """Signal the process."""
        ...

    def close_stdin(self) -> None:
        """End the program's input."""
        ...


def encode_record(record: ExitRecord) -> bytes:
    """Return the content of the exit file."""
    return json.dumps(to_message(record)).encode()


class Control:
    """Owns the channels and the listening socket. A channel that cannot take a message now is closed."""

    def __init__(self, served: Served, state_dir: str) -> None:
        self._served = served
        self._path = os.path.join(state_dir, "attach.sock")
        self._channels: list[Channel] = []
        self._listener: socket.socket | None = None

    def add(self, channel: Channel) -> None:
        """Serve a channel."""
        channel.set_blocking(False)
        self._channels.append(channel)
        self._served.watch(channel.fileno(), lambda _mask: self._on_message(channel))

    def listen(self) -> None:
        """Accept engines on ``attach.sock``, 0600; a path longer than a socket's name is reached by its directory."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        directory = os.open(os.path.dirname(self._path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mask = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{directory}/attach.sock")
        finally:
            os.umask(mask)
            os.close(directory)
        listener.listen(_BACKLOG)
        self._listener = listener
        self._served.watch(listener.fileno(), self._on_connection)

    def _on_connection(self, _mask: int) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
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
        message: JsonObject = {"event": "started", **self._served.started_fields()}
        self._send(channel, message, (self._served.running.pidfd.fileno(),))

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
            with contextlib.suppress(OSError):
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
