"""The shim: parent of a container's init or of an exec's process, from launch to exit record.

One loop owns the program's standard streams or terminal, the log, the clients, the control channels and
the pidfd. It survives the engine. The protocol is drawn in ``docs/concepts/processes.md``; ``loop.py``,
``clients.py``, ``control.py`` hold its parts.
"""

from __future__ import annotations

import os
import time

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError, os_error_text
from orlop.kernel.plain import socket
from orlop.kernel.prctl import set_name
from orlop.primitives.scope import suppress
from orlop.runtime import handover
from orlop.runtime.clients import Client
from orlop.runtime.container import Creation, RunningProcess, create
from orlop.runtime.exec import Execution, execute
from orlop.runtime.json_log import open_log
from orlop.runtime.loop import Loop, undo
from orlop.runtime.streams import Streams
from orlop.spec.launch import ContainerLaunch, ExecLaunch, from_message, to_message
from orlop.spec.oci import parse_config, parse_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.primitives.channel import Channel
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject
    from orlop.spec.launch import AttachTarget


def serve_container(worker: socket.socket, worker_pid: int, hierarchies: Hierarchies) -> None:
    """Be the shim of the container that the worker hands over, until it ends; return at once if there is none.

    A worker does all of the start, the reading of the request too, so that a shim stays small (``handover.py``). What
    went wrong it has told the engine itself; if it died, the end of file on the request's channel tells.
    """
    packet = handover.receive(worker)
    if packet is None:
        return
    set_name(b"orlop-shim")
    worker.close()
    os.waitpid(worker_pid, 0)  # it ends after the packet
    packet.wait()
    _serve(packet.open(hierarchies))


def start_container(
    control: Channel,
    message: JsonObject,
    fds: list[OwnedFd],
    hierarchies: Hierarchies,
    shim: socket.socket,
    taken: Callable[[], None],
) -> None:
    """Operation ``container``: start it, tell the engine and hand over to the shim, whose child init becomes.

    ``taken`` is called when init builds the root and this process waits for it.
    """
    announcement: handover.Announcement | None = None
    try:
        launch = from_message(ContainerLaunch, _object(message, "launch"))
        netns = fds.pop(0) if launch.has_netns and fds else None
        if launch.has_netns and netns is None:
            raise InvalidParameterError("network namespace is missing")
        _check_clients(launch.attach, fds)
        os.makedirs(launch.state_dir, mode=0o700, exist_ok=True)
        announcement = known = handover.Announcement(launch.state_dir, time.time_ns())

        def meanwhile(pid: int) -> None:
            taken()
            known.prepare(pid)

        with Streams(terminal=_wants_terminal(launch.config), open_stdin=launch.open_stdin) as streams:
            log = None if launch.log is None else open_log(launch.log)
            running = _create(launch, netns, streams.theirs, hierarchies, meanwhile)
            streams.started(running.master)
    except BaseException as error:  # noqa: BLE001 - the answer is the only way to tell
        if announcement is not None:
            announcement.withdraw()
        _failed(control, error)
        return
    started_at = announcement.started_at
    try:
        listener = announcement.make(control, running)
        started = handover.Started(running, streams, started_at, fds, log, listener)
        if handover.ends_at_once(shim, control, started, launch):
            _serve(handover.own_loop(shim, control, started, launch))
        else:
            handover.hand_over(shim, control, started, launch)
    except (OrlopError, OSError) as error:
        # What nobody can hold must not stay behind as an orphan.
        record = undo(running, launch.state_dir, _text(error), started_at=started_at)
        with suppress(OSError):
            control.send({"event": "exit", **to_message(record)})


def _create(
    launch: ContainerLaunch,
    netns: OwnedFd | None,
    stdio: tuple[int, int, int] | None,
    hierarchies: Hierarchies,
    meanwhile: Callable[[int], None],
) -> RunningProcess:
    """Create the container with its init as a child of the shim."""
    creation = Creation(
        id=launch.id,
        config=parse_config(launch.config),
        root_target=launch.state_dir,  # covered in init's own mount namespace only
        overlay=launch.overlay,
        netns=None if netns is None else netns.fileno(),
        stdio=stdio,
        console_size=launch.console_size,
        reap=launch.init,
        for_parent=True,
        meanwhile=meanwhile,
    )
    return create(creation, hierarchies)


def _wants_terminal(config: JsonObject) -> bool:
    """Look at one field, before the whole is parsed and checked."""
    process = config.get("process")
    return isinstance(process, dict) and process.get("terminal") is True


def run_exec(control: Channel, message: JsonObject, fds: list[OwnedFd], hierarchies: Hierarchies) -> None:
    """Operation ``exec``: be the shim of one more process in a container until it ends."""
    try:
        launch = from_message(ExecLaunch, _object(message, "launch"))
        if not fds:
            raise InvalidParameterError("exec takes the pidfd of the container's init")
        _start_exec(control, launch, fds.pop(0), fds, hierarchies)
    except (OrlopError, OSError) as error:
        _failed(control, error)


def _start_exec(
    control: Channel, launch: ExecLaunch, pidfd: OwnedFd, fds: list[OwnedFd], hierarchies: Hierarchies
) -> None:
    config, process = parse_config(launch.config), parse_process(launch.process)
    set_name(b"orlop-exec")
    clients = _clients(launch.attach, fds)
    os.makedirs(launch.state_dir, mode=0o700, exist_ok=True)
    started_at = time.time_ns()
    with Streams(terminal=process.terminal, open_stdin=launch.open_stdin) as streams:
        execution = Execution(
            container_id=launch.container_id,
            config=config,
            process=process,
            pidfd=pidfd.fileno(),
            stdio=streams.theirs,
            console_size=launch.console_size,
        )
        running: RunningProcess = execute(execution, hierarchies)
        streams.started(running.master)
    pidfd.close()
    loop = Loop(
        control,
        running,
        streams,
        state_dir=launch.state_dir,
        clients=clients,
        log=None,
        stdin_once=True,
        started_at=started_at,
        owns_cgroup=False,
    )
    _serve(loop)


def _serve(loop: Loop) -> None:
    try:
        loop.run()
    except Exception as error:  # noqa: BLE001 - a defect, too, is told in the exit record: nobody else can
        # The shim's own failure: what it holds must not stay behind as an orphan.
        loop.abandon(_text(error))


def _check_clients(targets: tuple[AttachTarget, ...], fds: list[OwnedFd]) -> None:
    if len(targets) != len(fds):
        raise InvalidParameterError(f"{len(targets)} clients expected, got {len(fds)} sockets")


def _clients(targets: tuple[AttachTarget, ...], fds: list[OwnedFd]) -> list[Client]:
    _check_clients(targets, fds)
    return [Client(socket.socket(fileno=fd.release()), target) for target, fd in zip(targets, fds, strict=True)]


def _failed(control: Channel, error: BaseException) -> None:
    kind = SystemFailureError.kind if isinstance(error, OSError) else getattr(error, "kind", OrlopError.kind)
    text = _text(error)
    with suppress(OSError):
        control.send({"event": "failed", "error": {"kind": kind, "message": text}})


def _text(error: BaseException) -> str:
    if isinstance(error, OSError):
        return os_error_text(error)
    return str(error) if isinstance(error, OrlopError) else f"{type(error).__name__}: {error}"


def _object(message: JsonObject, name: str) -> JsonObject:
    value = message.get(name)
    if not isinstance(value, dict):
        raise InvalidParameterError(f"{name} is missing")
    return value
