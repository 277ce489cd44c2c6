"""What the worker that starts a container hands to the shim: one packet with everything that was opened.

A shim lives as long as its container and there is one for each, so what it executes and touches is kept small: until
something happens it neither reads the packet nor makes an object of it, but waits on an epoll descriptor that comes
with it, in which the worker registered everything.

Many containers end within milliseconds. The worker, which has everything in its memory, waits that long, serves such a
container itself and asks the shim, whose child init is, for its status only:

    worker                       shim
     │  ──▶ Handover and descriptors      the container lives: the worker ends, the shim serves it
     │  ──▶ b"ended <pid>"                it does not: the shim collects init,
     │  ◀── b"<si_code> <si_status>"      waits for the worker's end and ends too
"""

from __future__ import annotations

import os
import select

from orlop.errors import OrlopError, UnavailableError
from orlop.kernel.plain import signal, socket
from orlop.primitives.channel import Channel, decode, encode, receive_packet, send_packet
from orlop.primitives.scope import suppress
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.cgroups.events import adopt_oom_events
from orlop.runtime.clients import Client
from orlop.runtime.container import RunningProcess
from orlop.runtime.control import SOCKET_NAME, listen, started_event
from orlop.runtime.json_log import JsonLog
from orlop.runtime.loop import Loop, write_pid
from orlop.runtime.streams import Streams
from orlop.spec.launch import AttachTarget, LogTarget, from_message, to_message
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject
    from orlop.spec.launch import ContainerLaunch


# A container that lives longer is handed over; one that says something, or is asked for something, sooner.
_SHORT_LIFE_MS = 100
_AFTER_NEWS_MS = 2
# What hangs up is a program that ends, and its namespaces go before its parent is told.
_AFTER_HANG_UP_MS = 20
_ENDED = b"ended "


@dataclass(frozen=True)
class Handover:
    """A container that runs.

    Attributes:
        pid: of init, the shim's child.
        cgroup: below the hierarchies' roots.
        started_at: nanoseconds since the epoch.
        state_dir: as in ContainerLaunch, like ``open_stdin``, ``stdin_once``, ``log`` and ``attach``.
        terminal: whether it has one; its master is ``stdout``, and standard input too.
        fds: what each descriptor is.
    """

    pid: int
    cgroup: str
    started_at: int
    state_dir: str
    terminal: bool
    open_stdin: bool
    stdin_once: bool
    fds: tuple[str, ...]
    log: LogTarget | None = None
    attach: tuple[AttachTarget, ...] = ()


class Announcement:
    """Makes a container known: in its state directory, as soon as there is an init, and to the engine when it runs."""

    def __init__(self, state_dir: str, started_at: int) -> None:
        self.started_at = started_at
        self._state_dir = state_dir
        self._listener: socket.socket | None = None
        self._event: JsonObject = {}

    def prepare(self, pid: int) -> None:
        """Do all of it that can be done before the program runs, while init builds its root. Raises OSError."""
        write_pid(self._state_dir, pid)
        self._listener = listen(self._state_dir)
        self._event = started_event(pid, self.started_at)

    def withdraw(self) -> None:
        """Undo that, for a program that never ran."""
        if self._listener is not None:
            self._listener.close()
        for name in ("pid", SOCKET_NAME):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._state_dir}/{name}")

    def make(self, control: Channel, running: RunningProcess) -> socket.socket:
        """Tell the engine that the container runs; returns the listening socket.

        Raises:
            UnavailableError: the engine died before it knew: the start was never acknowledged, so it must not have
                happened (faults.md R3).
        """
        if self._listener is None:
            raise ValueError("not prepared")
        try:
            control.send(self._event, (running.pidfd.fileno(),))
        except OSError:
            raise UnavailableError("engine is gone") from None
        return self._listener


@dataclass
class Started:
    """A container that runs and everything that was opened for it; see :class:`Handover` and ``Loop``."""

    running: RunningProcess
    streams: Streams
    started_at: int
    clients: list[OwnedFd]
    log: int | None
    listener: socket.socket


def ends_at_once(shim: socket.socket, control: Channel, started: Started, launch: ContainerLaunch) -> bool:
    """Wait a moment for the container's end; False when it goes on, or when somebody wants something of its shim."""
    if any(target.preface for target in launch.attach):
        return False
    pidfd = started.running.pidfd.fileno()
    poll = select.poll()
    for fd in (pidfd, shim.fileno(), control.fileno(), started.listener.fileno(), *started.streams.readers):
        poll.register(fd, select.POLLIN)
    for client, target in zip(started.clients, launch.attach, strict=True):
        # the docker client ends its half of the connection at once where there is no input
        poll.register(client.fileno(), select.POLLIN if target.stdin else 0)
    ready = dict(poll.poll(_SHORT_LIFE_MS))
    if not ready or pidfd in ready:
        return pidfd in ready
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    hung_up = any(ready.get(fd, 0) & select.POLLHUP for fd in started.streams.readers)
    return bool(poll.poll(_AFTER_HANG_UP_MS if hung_up else _AFTER_NEWS_MS))


def own_loop(shim: socket.socket, control: Channel, started: Started, launch: ContainerLaunch) -> Loop:
    """Return the loop of a container that has ended already, for the worker to run."""
    running, streams = started.running, started.streams
    oom = None
    with suppress(OrlopError, OSError):
        oom = running.cgroup.oom_events()
    return Loop(
        control,
        running,
        streams,
        state_dir=launch.state_dir,
        clients=[
            Client(socket.socket(fileno=fd.release()), target)
            for fd, target in zip(started.clients, launch.attach, strict=True)
        ],
        log=None if launch.log is None else JsonLog(launch.log, started.log),
        stdin_once=launch.stdin_once,
        started_at=started.started_at,
        owns_cgroup=True,
        listener=started.listener,
        oom=oom,
        collect=lambda: _ask_for_status(shim, running.pid),
    )


def _ask_for_status(shim: socket.socket, pid: int) -> tuple[int, int]:
    """Have the shim collect init; returns ``si_code`` and ``si_status``. Init is killed when its shim is gone."""
    try:
        shim.send(_ENDED + str(pid).encode())
        code, status = shim.recv(64).split()
    except (OSError, ValueError):
        return os.CLD_KILLED, signal.SIGKILL
    return int(code), int(status)


def hand_over(shim: socket.socket, control: Channel, started: Started, launch: ContainerLaunch) -> None:
    """Send everything to the shim, which waits for it. Raises OSError when there is no shim any more."""
    running, streams, log = started.running, started.streams, started.log
    fds = [("pidfd", running.pidfd.fileno()), ("listener", started.listener.fileno()), ("control", control.fileno())]
    fds += [(name, fd) for fd, name in streams.readers.items()]
    with suppress(OrlopError, OSError):
        fds += [("oom", fd) for fd in running.cgroup.oom_events().descriptors()]
    epoll = select.epoll()
    for fd in dict(reversed(fds)).values():  # of the two of "oom" the first
        epoll.register(fd, select.EPOLLIN)
    for client in started.clients:
        epoll.register(client.fileno(), select.EPOLLOUT)  # at once: clients are served by the loop
        fds.append(("client", client.fileno()))
    if streams.writer is not None and streams.writer not in streams.readers:
        fds.append(("stdin", streams.writer))
    if log is not None:
        fds.append(("log", log))
    state = Handover(
        pid=running.pid,
        cgroup=running.cgroup.reference,
        started_at=started.started_at,
        state_dir=launch.state_dir,
        terminal=streams.terminal,
        open_stdin=launch.open_stdin,
        stdin_once=launch.stdin_once,
        fds=tuple([name for name, _ in fds]),
        log=launch.log,
        attach=launch.attach,
    )
    data, numbers, spill = encode(to_message(state), [*[fd for _, fd in fds], epoll.fileno()])
    send_packet(shim, data, numbers)
    if spill is not None:
        spill.close()


class Packet:
    """A handover that was received and not looked at."""

    __slots__ = ("_data", "_epoll", "_fds")

    def __init__(self, data: bytes, fds: list[OwnedFd]) -> None:
        self._data = data
        self._epoll = select.epoll.fromfd(fds.pop().release())
        self._fds = fds

    def wait(self) -> None:
        """Wait until something happened."""
        self._epoll.poll(None, 1)
        self._epoll.close()

    def open(self, hierarchies: Hierarchies) -> Loop:
        """Make the loop that serves the container from here on."""
        message, fds = decode(self._data, self._fds)
        state = from_message(Handover, message)
        named: dict[str, list[OwnedFd]] = {}
        for name, fd in zip(state.fds, fds, strict=True):
            named.setdefault(name, []).append(fd)
        readers: dict[int, str] = {named[name][0].release(): name for name in ("stdout", "stderr") if name in named}
        writer: int | None = None
        if "stdin" in named:
            writer = named["stdin"][0].release()
        elif state.terminal and state.open_stdin:
            writer = next(iter(readers))
        targets = zip(state.attach, named.get("client", ()), strict=True)
        log = None if state.log is None else JsonLog(state.log, named["log"][0].release())
        oom = named.get("oom")
        return Loop(
            Channel.from_fd(named["control"][0]),
            RunningProcess(state.pid, named["pidfd"][0], None, open_cgroup(hierarchies, state.cgroup)),
            Streams.adopt(readers, writer, terminal=state.terminal),
            state_dir=state.state_dir,
            clients=[Client(socket.socket(fileno=fd.release()), target) for target, fd in targets],
            log=log,
            stdin_once=state.stdin_once,
            started_at=state.started_at,
            owns_cgroup=True,
            listener=socket.socket(fileno=named["listener"][0].release()),
            oom=None if oom is None else adopt_oom_events(hierarchies.version, oom[0], oom[1]),
        )


def receive(worker: socket.socket) -> Packet | None:
    """Wait for the worker's packet; None when there is none, or when the container has ended and was collected."""
    data, fds = receive_packet(worker)
    if data.startswith(_ENDED):
        result = os.waitid(os.P_PID, int(data[len(_ENDED) :]), os.WEXITED)
        if result is not None:
            with suppress(OSError):
                worker.send(b"%d %d" % (result.si_code, result.si_status))
        worker.recv(1)  # its end: until then it serves the container's clients
        return None
    return Packet(data, fds) if data else None
