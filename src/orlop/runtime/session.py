"""The shim: parent of a container's init or of an exec's process, from launch to exit record.

One ``selectors`` loop owns the program's standard streams or terminal, the log, the clients, the control channels and
the pidfd. It survives the engine. The protocol is drawn in ``docs/concepts/processes.md``; ``output.py``,
``clients.py``, ``control.py`` hold its parts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError, from_kind
from orlop.kernel.prctl import set_name
from orlop.primitives.channel import Channel
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.clients import Client
from orlop.runtime.container import Creation, RunningProcess, create
from orlop.runtime.exec import Execution, execute
from orlop.runtime.forking import fork_worker
from orlop.runtime.init import os_error_text, report
from orlop.runtime.json_log import JsonLog
from orlop.runtime.loop import Loop
from orlop.runtime.streams import Streams
from orlop.spec.launch import ContainerLaunch, ExecLaunch, from_message
from orlop.spec.oci import parse_config, parse_process

if TYPE_CHECKING:
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject
    from orlop.spec.launch import AttachTarget


def run_container(control: Channel, message: JsonObject, fds: list[OwnedFd], hierarchies: Hierarchies) -> None:
    """Operation ``container``: be the shim of a container until it ends."""
    try:
        launch = from_message(ContainerLaunch, _object(message, "launch"))
        netns = fds.pop(0) if launch.has_netns and fds else None
        _start_container(control, launch, netns, fds, hierarchies)
    except (OrlopError, OSError) as error:
        _failed(control, error)


def _start_container(
    control: Channel, launch: ContainerLaunch, netns: OwnedFd | None, fds: list[OwnedFd], hierarchies: Hierarchies
) -> None:
    if launch.has_netns and netns is None:
        raise InvalidParameterError("network namespace is missing")
    terminal = _wants_terminal(launch.config)
    os.makedirs(launch.state_dir, mode=0o700, exist_ok=True)
    started_at = time.time_ns()
    with Streams(terminal=terminal, open_stdin=launch.open_stdin) as streams:
        ours, theirs = Channel.pair()
        netns_fd = None if netns is None else netns.fileno()
        worker = fork_worker(lambda: _create(theirs, launch, netns_fd, streams.theirs, hierarchies))
        theirs.close()
        # beside the worker's work
        set_name(b"orlop-shim")
        clients = _clients(launch.attach, fds, terminal=terminal)
        log = JsonLog(launch.log) if launch.log is not None else None
        try:
            running = _created(ours, hierarchies)
        finally:
            ours.close()
            os.waitpid(worker, 0)
        streams.started(running.master)
    if netns is not None:
        netns.close()
    loop = Loop(
        control,
        running,
        streams,
        state_dir=launch.state_dir,
        clients=clients,
        log=log,
        stdin_once=launch.stdin_once,
        started_at=started_at,
        owns_cgroup=True,
    )
    _serve(loop)


def _create(
    answer: Channel,
    launch: ContainerLaunch,
    netns: int | None,
    stdio: tuple[int, int, int] | None,
    hierarchies: Hierarchies,
) -> None:
    """Do the work of creating, in a child of the shim: init becomes the shim's child."""
    try:
        creation = Creation(
            id=launch.id,
            config=parse_config(launch.config),
            root_target=launch.state_dir,  # covered in init's own mount namespace only
            overlay=launch.overlay,
            netns=netns,
            stdio=stdio,
            console_size=launch.console_size,
            reap=launch.init,
            for_parent=True,
        )
        running = create(creation, hierarchies)
        fds = [running.pidfd.fileno(), *(() if running.master is None else (running.master.fileno(),))]
        answer.send({"pid": running.pid, "cgroup": running.cgroup.path}, fds)
    except BaseException as error:  # noqa: BLE001 - the answer is the only way to tell
        report(answer, error)


def _created(answers: Channel, hierarchies: Hierarchies) -> RunningProcess:
    """Wait for the worker's answer. Raises what it reported."""
    got = answers.receive()
    if got is None:
        raise SystemFailureError("container was not created: its worker died")
    message, fds = got
    error = message.get("error")
    if isinstance(error, dict):
        raise from_kind(str(error.get("kind")), str(error.get("message")))
    pid, path = message.get("pid"), message.get("cgroup")
    if not isinstance(pid, int) or not isinstance(path, str) or not fds:
        raise SystemFailureError("malformed answer of the worker")
    pidfd, *rest = fds
    return RunningProcess(pid, pidfd, rest[0] if rest else None, open_cgroup(hierarchies, path))


def _wants_terminal(config: JsonObject) -> bool:
    """Look at one field; the worker parses and checks the whole."""
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
    clients = _clients(launch.attach, fds, terminal=process.terminal)
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
    except (OrlopError, OSError) as error:
        # The shim's own failure: what it holds must not stay behind as an orphan.
        loop.abandon(os_error_text(error) if isinstance(error, OSError) else str(error))


def _clients(targets: tuple[AttachTarget, ...], fds: list[OwnedFd], *, terminal: bool) -> list[Client]:
    if len(targets) != len(fds):
        raise InvalidParameterError(f"{len(targets)} clients expected, got {len(fds)} sockets")
    return [
        Client(socket.socket(fileno=fd.release()), target, terminal=terminal)
        for target, fd in zip(targets, fds, strict=True)
    ]


def _failed(control: Channel, error: OrlopError | OSError) -> None:
    kind = error.kind if isinstance(error, OrlopError) else SystemFailureError.kind
    text = os_error_text(error) if isinstance(error, OSError) else str(error)
    with contextlib.suppress(OSError):
        control.send({"event": "failed", "error": {"kind": kind, "message": text}})


def _object(message: JsonObject, name: str) -> JsonObject:
    value = message.get(name)
    if not isinstance(value, dict):
        raise InvalidParameterError(f"{name} is missing")
    return value
