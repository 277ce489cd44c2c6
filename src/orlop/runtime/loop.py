"""The shim's loop: streams, log, clients, control channels and the process itself, until all is said."""

from __future__ import annotations

import os
import select
import time

from orlop.errors import OrlopError, UnavailableError
from orlop.kernel.plain import signal
from orlop.kernel.process import pidfd_send_signal
from orlop.primitives.atomic import write_atomic
from orlop.primitives.scope import suppress
from orlop.runtime.clients import BUFFER_LIMIT, Client
from orlop.runtime.control import Control, encode_record, listen
from orlop.runtime.streams import READ_SIZE, Streams
from orlop.spec.launch import ExitRecord, to_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.kernel.plain import socket
    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups.contract import OomEvents
    from orlop.runtime.container import RunningProcess
    from orlop.runtime.json_log import JsonLog
    from orlop.spec.launch import AttachTarget

DRAIN_SECONDS = 3.0
QUIET_SECONDS = 0.1
FLUSH_SECONDS = 30.0
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """Owns everything of one running process; :meth:`run` returns when nothing is left to do.

    Args:
        control: the channel that the shim was born with.
        running: the process.
        streams: its standard streams.
        state_dir: where ``attach.sock``, ``pid`` and ``exit`` are.
        clients: clients that are there from the first byte.
        log: the container's log, or None.
        stdin_once: end the program's input when a client that had it goes.
        started_at: nanoseconds since the epoch.
        owns_cgroup: kill what is left in the cgroup and remove it at the end.
        listener: the socket of ``attach.sock``, where the engine was told of the start already.
        oom: a watch of the cgroup.
        collect: returns ``si_code`` and ``si_status`` of the ended process, of which we are not the parent.
    """

    def __init__(  # noqa: PLR0913 - each is owned from here on
        self,
        control: Channel,
        running: RunningProcess,
        streams: Streams,
        *,
        state_dir: str,
        clients: list[Client],
        log: JsonLog | None,
        stdin_once: bool,
        started_at: int,
        owns_cgroup: bool,
        listener: socket.socket | None = None,
        oom: OomEvents | None = None,
        collect: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.running = running
        self.streams = streams
        self.started_at = started_at
        self._state_dir = state_dir
        self._log = log
        self._stdin_once = stdin_once
        self._owns_cgroup = owns_cgroup
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._clients = clients
        self._input = bytearray()
        self._closing_input = False
        self._ended = False
        self._listener = listener
        self._oom = oom
        self._oom_killed = False
        self._collect = self._wait if collect is None else collect
        self._interest: dict[int, int] = {}
        # clients of which nothing is wanted now; epoll tells their hang-up all the same
        self._idle = select.epoll()
        self._idle_clients: dict[int, Client] = {}
        self.watch(self._idle.fileno(), self._on_hang_up)
        self.control = Control(self, state_dir)
        self.control.add(control)

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        """Serve until the process ended and everything was delivered."""
        self._begin()
        while not self._ended:
            self._turn(None)
        self._drain()
        self._finish()
        deadline = time.monotonic() + FLUSH_SECONDS
        while any(client.pending for client in self._clients) and time.monotonic() < deadline:
            self._turn(1.0)
        for client in self._clients:
            client.close()

    def close(self) -> None:
        """Close what it waits with, which ends with the process otherwise."""
        self._epoll.close()
        self._idle.close()

    def _begin(self) -> None:
        if self._oom is not None:
            self.watch(self._oom.fileno(), self._on_oom)
        self.watch(self.running.pidfd.fileno(), self._on_end)
        if self._listener is not None:
            self.control.serve(self._listener)
        else:
            write_pid(self._state_dir, self.running.pid)
            self.control.serve(listen(self._state_dir))
            if not self.control.broadcast_started():
                # The engine died before it knew: the start was never acknowledged, so it did not happen (faults.md R3).
                raise UnavailableError("engine is gone")
        for client in self._clients:
            if client.has_preface:
                self._on_client_input(client)

    def watch(self, fd: int, callback: Callable[[int], object], mask: int = _READ) -> None:
        """Call ``callback(mask)`` when ``fd`` is readable, or what else ``mask`` says."""
        if fd in self._callbacks:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop that, before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _turn(self, timeout: float | None) -> bool:
        """Wait for events and handle them; False when none came in time."""
        self._choose_interest()
        if timeout is None:
            timeout = min((client.patience() for client in self._clients if client.full), default=None)
        events = self._epoll.poll(None if timeout is None else max(timeout, 0))
        for fd, mask in events:
            callback = self._callbacks.get(fd)
            if callback is not None:  # else an earlier one of these ended it
                # an error or a hang-up is learnt by reading and by writing
                callback((0 if mask == _WRITE else _READ) | (0 if mask == _READ else _WRITE))
        return bool(events)

    def _choose_interest(self) -> None:
        """Register streams and clients for what is wanted of them now: back-pressure is reading nothing."""
        for client in list(self._clients):
            if client.broken or (client.detached and not client.pending) or (client.full and client.patience() < 0):
                self._drop(client)
        wanted: dict[int, int] = {}
        full = any(client.full for client in self._clients)
        if not full:
            for fd in self.streams.readers:
                wanted[fd] = _READ
        writer = self.streams.writer
        if writer is not None and self._input:
            wanted[writer] = wanted.get(writer, 0) | _WRITE
        # without a writer input is read and thrown away, for the detach keys and the end of the file in it
        accepts = writer is None or len(self._input) < BUFFER_LIMIT
        idle: dict[int, Client] = {}
        for client in self._clients:
            mask = _WRITE if client.pending else 0
            if not client.reading_ended and not client.detached and (accepts or not client.wants_input):
                mask |= _READ
            if mask:
                wanted[client.fileno()] = mask
            else:
                idle[client.fileno()] = client
        self._watch_idle(idle)
        for fd in self._interest.keys() - wanted.keys():
            self.unwatch(fd)
        for fd, mask in wanted.items():
            if self._interest.get(fd) != mask:
                self.watch(fd, self._handler(fd), mask)
        self._interest = wanted

    def _watch_idle(self, clients: dict[int, Client]) -> None:
        for fd in self._idle_clients.keys() - clients.keys():
            self._idle.unregister(fd)
        for fd, client in clients.items():
            if self._idle_clients.get(fd) is not client:
                self._idle.register(fd, 0)
        self._idle_clients = clients

    def _on_hang_up(self, _mask: int) -> None:
        for fd, _ in self._idle.poll(0):
            self._idle_clients[fd].broken = True

    def _handler(self, fd: int) -> Callable[[int], object]:
        for client in self._clients:
            if client.fileno() == fd:
                return lambda mask: self._on_client(client, mask)
        return lambda mask: self._on_stream(fd, mask)

    # ------------------------------------------------------------------ streams

    def _on_stream(self, fd: int, mask: int) -> None:
        if mask & _WRITE:
            self._feed()
        if mask & _READ and fd in self.streams.readers:
            self._read_stream(fd)

    def _read_stream(self, fd: int) -> bool:
        """Pass one chunk of output on; False when there is none now."""
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last peer of the terminal is gone
            data = b""
        stream = self.streams.readers[fd]
        if not data:
            self._forget(fd)
            self.streams.close_reader(fd)
            return False
        if self._log is not None:
            self._log.write(stream, data)
        for client in self._clients:
            client.offer(stream, data)
        return True

    def _forget(self, fd: int) -> None:
        if self._interest.pop(fd, None) is not None:
            self.unwatch(fd)

    def _feed(self) -> None:
        """Write queued input."""
        writer = self.streams.writer
        if writer is None:
            self._input.clear()
            return
        while self._input:
            try:
                written = os.write(writer, memoryview(self._input)[:READ_SIZE])
            except BlockingIOError:
                return
            except OSError:  # EPIPE: the program closed its input
                self._input.clear()
                self._end_input()
                return
            del self._input[:written]
        if self._closing_input:
            self._end_input()

    def _end_input(self) -> None:
        writer = self.streams.writer
        if writer is not None and writer not in self.streams.readers:
            self._forget(writer)
        self.streams.close_writer()

    def close_stdin(self) -> None:
        """End the program's input after what is queued."""
        self._closing_input = True
        self._feed()

    # ------------------------------------------------------------------ clients

    def attach(self, sock: socket.socket, target: AttachTarget) -> None:
        """Serve one more client."""
        client = Client(sock, target)
        self._clients.append(client)
        if client.has_preface:
            self._on_client_input(client)

    def _on_client(self, client: Client, mask: int) -> None:
        if mask & _WRITE:
            client.flush()
        if mask & _READ:
            self._on_client_input(client)

    def _on_client_input(self, client: Client) -> None:
        data = client.read()
        if data and self.streams.writer is not None:
            self._input += data
            self._feed()
        if client.reading_ended and client.wants_input and self._stdin_once and not self.streams.terminal:
            self.close_stdin()

    def _drop(self, client: Client) -> None:
        """Let go of a client.

        Its socket is no longer watched before it is closed: while the engine still holds its own descriptor, closing
        ours would not end that (epoll(7)), and nobody would know whose hang-up it is.
        """
        fd = client.fileno()
        self._forget(fd)
        if self._idle_clients.pop(fd, None) is not None:
            self._idle.unregister(fd)
        self._clients.remove(client)
        if client.wants_input and self._stdin_once and not client.detached and not self.streams.terminal:
            self.close_stdin()
        client.close()

    # ------------------------------------------------------------------ end

    def send_signal(self, number: int) -> None:
        """Signal the process. Raises OSError."""
        pidfd_send_signal(self.running.pidfd.fileno(), number)

    def _on_oom(self, _mask: int) -> None:
        if self._oom is not None:
            self._oom.drain()
            self._tell_oom(self._oom)

    def _tell_oom(self, events: OomEvents) -> None:
        if not self._oom_killed and events.killed():
            self._oom_killed = True
            self.control.broadcast({"event": "oom"})

    def _on_end(self, _mask: int) -> None:
        self._ended = True
        self.unwatch(self.running.pidfd.fileno())

    def _drain(self) -> None:
        """Read what the process had written; others that hold its streams get a moment of quiet, and no more."""
        if self._owns_cgroup:
            with suppress(OrlopError, OSError):
                if self.running.cgroup.pids():  # without a pid namespace of its own others may be left
                    self.running.cgroup.kill()
        deadline = time.monotonic() + DRAIN_SECONDS
        for fd in list(self.streams.readers):
            while fd in self.streams.readers and self._read_stream(fd) and time.monotonic() < deadline:
                # what is left in a pipe is little, and the log has to have it, whoever does not read
                if any(client.excess for client in self._clients):
                    self._turn(QUIET_SECONDS)
        while self.streams.readers and time.monotonic() < deadline:
            if not self._turn(QUIET_SECONDS):
                break

    def _finish(self) -> None:
        self.streams.close()
        if self._log is not None:
            self._log.close()
        how, status = self._collect()
        code = status if how == os.CLD_EXITED else 128 + status
        if self._oom is not None:
            self._tell_oom(self._oom)  # the end of init can come before the news of it
            self.unwatch(self._oom.fileno())
            self._oom.close()
            self._oom = None
        if self._owns_cgroup:
            with suppress(OrlopError, OSError):
                self.running.cgroup.remove()
        record = ExitRecord(code, self._oom_killed, self.started_at, time.time_ns())
        _write(self._state_dir, "exit", encode_record(record))
        self.control.close_listener()
        self.control.broadcast({"event": "exit", **to_message(record)})
        self.control.close()

    def _wait(self) -> tuple[int, int]:
        result = os.waitid(os.P_PIDFD, self.running.pidfd.fileno(), os.WEXITED)
        return (os.CLD_EXITED, 255) if result is None else (result.si_code, result.si_status)

    def abandon(self, reason: str) -> None:
        """The shim itself failed: end the process and say so as well as is still possible."""
        owned = self._owns_cgroup
        record = undo(self.running, self._state_dir, reason, started_at=self.started_at, owns_cgroup=owned)
        self.control.broadcast({"event": "exit", **to_message(record)})


def write_pid(state_dir: str, pid: int) -> None:
    """Write the ``pid`` file."""
    _write(state_dir, "pid", str(pid).encode())


def undo(
    running: RunningProcess, state_dir: str, reason: str, *, started_at: int, owns_cgroup: bool = True
) -> ExitRecord:
    """End a process whose shim cannot go on; returns the record that was written, if it could be."""
    with suppress(OSError):
        pidfd_send_signal(running.pidfd.fileno(), signal.SIGKILL)
    with suppress(OrlopError, OSError):
        if owns_cgroup:
            running.cgroup.kill()
            running.cgroup.remove()
    record = ExitRecord(137, oom_killed=False, started_at=started_at, finished_at=time.time_ns(), error=reason)
    with suppress(OSError):
        _write(state_dir, "exit", encode_record(record))
    return record


def _write(state_dir: str, name: str, data: bytes) -> None:
    write_atomic(os.path.join(state_dir, name), data, 0o600)
