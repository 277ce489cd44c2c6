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

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.kernel.prctl import set_name
from orlop.runtime.clients import Client
from orlop.runtime.container import Creation, create
from orlop.runtime.exec import Execution, execute
from orlop.runtime.init import os_error_text
from orlop.runtime.json_log import JsonLog
from orlop.runtime.loop import Loop
from orlop.runtime.streams import Streams
from orlop.spec.launch import ContainerLaunch, ExecLaunch, from_message
from orlop.spec.oci import parse_config, parse_process

if TYPE_CHECKING:
    from orlop.primitives.channel import Channel
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.container import RunningProcess
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
    config = parse_config(launch.config)
    if config.process is None:
        raise InvalidParameterError("config has no process")
    if launch.has_netns and netns is None:
        raise InvalidParameterError("network namespace is missing")
    set_name(b"orlop-shim")
    clients = _clients(launch.attach, fds, terminal=config.process.terminal)
    os.makedirs(launch.state_dir, mode=0o700, exist_ok=True)
    log = JsonLog(launch.log) if launch.log is not None else None
    started_at = time.time_ns()
    with Streams(terminal=config.process.terminal, open_stdin=launch.open_stdin) as streams:
        creation = Creation(
            id=launch.id,
            config=config,
            root_target=launch.state_dir,  # covered in init's own mount namespace only
            overlay=launch.overlay,
            netns=None if netns is None else netns.fileno(),
            stdio=streams.theirs,
            console_size=launch.console_size,
            reap=launch.init,
        )
        running = create(creation, hierarchies)
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
