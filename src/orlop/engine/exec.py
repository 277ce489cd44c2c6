"""Exec: one more process in a running container."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import select
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.engine.containers.attaching import parse_detach_keys
from orlop.engine.containers.oci_config import environment, user_object
from orlop.engine.containers.start_failure import exec_failure
from orlop.engine.containers.trees import remove_flat
from orlop.errors import (
    ConflictError,
    InvalidParameterError,
    NotFoundError,
    OrlopError,
    SystemFailureError,
    UnavailableError,
)
from orlop.network.uninterrupted import run_to_end
from orlop.runtime.security import capabilities
from orlop.runtime.users import validate_user
from orlop.spec.ids import generate_id
from orlop.spec.json import JsonValue
from orlop.spec.launch import AttachTarget, ExecLaunch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.engine.containers import ContainerService
    from orlop.engine.containers.container import Container
    from orlop.engine.shims import ShimConnection, Started
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.docker.containers import ExecCreate
    from orlop.spec.json import JsonObject

# Finished sessions stay inspectable for a while, as in Docker (there: five minutes).
_KEPT_SECONDS = 300.0
_ENDING_SECONDS = 1.0
# How long a terminal's size waits for its exec; a client sends it as soon as it has the head of the start's answer,
# and has few retries. As dockerd's.
_SIZE_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Session:
    """One exec.

    Attributes:
        id: 64 hexadecimal digits.
        container: in which it runs.
        request: as the client made it.
        detach_keys: hex.
        started: whether a start was asked for.
        running: the process exists.
        exit_code: None until it ended.
        pid: on the host, 0 unless it runs.
        shim: its control channel.
        begun: set when the process runs, or never will.
    """

    id: str
    container: Container
    request: ExecCreate
    detach_keys: str
    started: bool = False
    running: bool = False
    exit_code: int | None = None
    pid: int = 0
    shim: ShimConnection | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)


class ExecService:
    """Owns the exec sessions; they end with their container and are forgotten with the engine."""

    def __init__(self, containers: ContainerService) -> None:
        self._containers = containers
        self._sessions: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, exec_id: str) -> Session:
        """Find a session. Raises NotFoundError in Docker's words."""
        try:
            return self._sessions[exec_id]
        except KeyError:
            raise NotFoundError(f"No such exec instance: {exec_id}") from None

    def create(self, name: str, request: ExecCreate) -> str:
        """Prepare an exec; returns its id.

        Raises:
            ConflictError: the container does not run, or is paused.
            InvalidParameterError: no command, bad user or directory.
        """
        container = self._containers.get(name)
        _require_running(container, name)
        if not request.cmd:
            raise InvalidParameterError("No exec command specified")
        for text in (*request.cmd, *(request.env or ()), request.working_dir):
            if "\0" in text:
                raise InvalidParameterError("invalid string: it contains a NUL")
        validate_user(request.user)
        if request.working_dir and not request.working_dir.startswith("/"):
            raise InvalidParameterError("Cwd must be an absolute path")
        session = Session(generate_id(), container, request, parse_detach_keys(request.detach_keys))
        self._sessions[session.id] = session
        container.execs.append(session.id)
        self._tell(session, f"exec_create: {_command_text(request.cmd)}")
        return session.id

    def require_startable(self, exec_id: str) -> Session:
        """Find a session that can be started now. Raises NotFoundError, ConflictError."""
        session = self.get(exec_id)
        if session.exit_code is not None:
            raise ConflictError(f"exec command {exec_id} has already run")
        if session.started:
            raise ConflictError(f"exec command {exec_id} is already running")
        _require_running(session.container)
        return session

    async def start(
        self,
        session: Session,
        client: OwnedFd | None,
        *,
        multiplexed: bool = True,
        preface: bytes = b"",
        console_size: tuple[int, int] | None = None,
    ) -> None:
        """Run the process; returns when it runs. The client's socket is taken over in every case.

        Whoever is cancelled meanwhile leaves a process that runs and is watched, or none.

        Raises:
            OrlopError: it could not be started; the exit code is 126 or 127 then.
        """
        session.started = True
        self._tell(session, f"exec_start: {_command_text(session.request.cmd or ())}")
        request = session.request
        targets: tuple[AttachTarget, ...] = ()
        if client is not None:
            targets = (
                AttachTarget(
                    stdin=request.attach_stdin,
                    stdout=request.attach_stdout,
                    stderr=request.attach_stderr,
                    multiplexed=multiplexed,
                    detach_keys=session.detach_keys if request.tty else "",
                    preface=preface.hex(),
                ),
            )
        await run_to_end(self._run(session, targets, client, console_size or request.console_size))

    async def _run(
        self,
        session: Session,
        targets: tuple[AttachTarget, ...],
        client: OwnedFd | None,
        console_size: tuple[int, int] | None,
    ) -> None:
        try:
            started = await self._launch(session, targets, client, console_size)
        except OrlopError as error:
            session.exit_code = {"command_not_found": 127, "command_not_executable": 126}.get(error.kind, 126)
            self._ended(session)
            raise
        finally:
            if client is not None:
                client.close()
        session.running, session.pid = True, started.pid
        session.begun.set()
        started.pidfd.close()
        task = asyncio.get_running_loop().create_task(self._watch(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _launch(
        self,
        session: Session,
        targets: tuple[AttachTarget, ...],
        client: OwnedFd | None,
        console_size: tuple[int, int] | None,
    ) -> Started:
        container = session.container
        _require_running(container)
        if container.pidfd is None:
            raise ConflictError(f"container {container.id} is not running")
        state_dir = self._containers.settings.state_dir(session.id)
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        request = session.request
        launch = ExecLaunch(
            id=session.id,
            container_id=container.id,
            state_dir=state_dir,
            config=container.config,
            process=self._process(container, request),
            open_stdin=request.attach_stdin and client is not None,
            console_size=console_size if request.tty and console_size and all(console_size) else None,
            attach=targets,
        )
        clients: Sequence[int] = [client.fileno()] if client is not None else []
        spawner = self._containers.spawner
        try:
            session.shim = await spawner.start_exec(launch, pidfd=container.pidfd.fileno(), attach=clients)
            return await session.shim.wait_started()
        except OrlopError as error:
            if isinstance(error, (SystemFailureError, UnavailableError)) and await _is_ending(container):
                # whatever was missing on the way went with the container
                raise ConflictError(f"container {container.id} is not running") from error
            raise exec_failure(error) from error

    def _process(self, container: Container, request: ExecCreate) -> JsonObject:
        definition = container.definition
        host = definition.host
        names = capabilities.resolve(
            host.cap_add or [], host.cap_drop or [], privileged=host.privileged or request.privileged
        )
        own = {item.partition("=")[0] for item in request.env or ()}
        inherited = [item for item in definition.config.env or () if item.partition("=")[0] not in own]
        env = environment([*inherited, *(request.env or ())], definition.config.hostname, tty=request.tty)
        process = container.config.get("process")
        outer: JsonObject = process if isinstance(process, dict) else {}
        return {
            "args": list[JsonValue](request.cmd or []),
            "cwd": request.working_dir or definition.config.working_dir or "/",
            "env": list[JsonValue](env),
            "terminal": request.tty,
            "user": user_object(request.user or definition.config.user, host),
            "capabilities": capabilities.oci_sets(names),
            "noNewPrivileges": outer.get("noNewPrivileges", False),
            "rlimits": outer.get("rlimits", []),
            "oomScoreAdj": host.oom_score_adj,
            # also of a privileged exec: the profile is the container's
            "apparmorProfile": outer.get("apparmorProfile", ""),
        }

    async def _watch(self, session: Session) -> None:
        if session.shim is None:
            return
        await asyncio.wait([session.shim.ended])
        self._settle(session)

    def _settle(self, session: Session) -> None:
        """Take the end over if it is known.

        Clients ask for the exit code the moment their stream ends, which can be before the watching task's turn.
        """
        if session.running and session.shim is not None and session.shim.ended.done():
            record = session.shim.ended.result()
            session.exit_code = record.exit_code if record is not None else 137
            self._ended(session)

    def _ended(self, session: Session) -> None:
        if session.shim is not None:
            session.shim.close()
            session.shim = None
        session.running, session.pid = False, 0
        session.begun.set()
        with contextlib.suppress(OSError):
            remove_flat(self._containers.settings.state_dir(session.id))
        self._tell(session, "exec_die", exitCode=str(session.exit_code))
        if session.id in session.container.execs:
            session.container.execs.remove(session.id)
        asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._sessions.pop, session.id, None)

    def _tell(self, session: Session, action: str, **more: str) -> None:
        attributes = session.container.attributes(execID=session.id, **more)
        self._containers.events.publish("container", action, session.container.id, attributes)

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        """Set the terminal's size, once there is one.

        Raises:
            ConflictError: it has ended.
            SystemFailureError: nobody starts it.
        """
        session = self.get(exec_id)
        try:
            async with asyncio.timeout(_SIZE_SECONDS):
                await session.begun.wait()
        except TimeoutError:
            raise SystemFailureError("timeout waiting for exec session ready") from None
        if session.shim is None:
            raise ConflictError(f"exec process {exec_id} is not running")
        await session.shim.resize(height, width)

    def inspect(self, exec_id: str) -> JsonObject:
        """Return the document of ``GET /exec/{id}/json``."""
        session = self.get(exec_id)
        self._settle(session)
        request = session.request
        words = request.cmd or [""]
        return {
            "ID": session.id,
            "Running": session.running,
            "ExitCode": session.exit_code,
            "ProcessConfig": {
                "tty": request.tty,
                "entrypoint": words[0],
                "arguments": list[JsonValue](words[1:]),
                "privileged": request.privileged,
                **({"user": request.user} if request.user else {}),
            },
            "OpenStdin": request.attach_stdin,
            "OpenStderr": request.attach_stderr,
            "OpenStdout": request.attach_stdout,
            "CanRemove": session.exit_code is not None,
            "ContainerID": session.container.id,
            "DetachKeys": base64.b64encode(bytes.fromhex(session.detach_keys)).decode(),
            "Pid": session.pid,
        }


def _command_text(words: Sequence[str]) -> str:
    """Return a command as events tell it: dockerd puts a blank between the program and its words, if any or not."""
    return f"{words[0] if words else ''} {' '.join(words[1:])}"


def _require_running(container: Container, name: str = "") -> None:
    if container.state.status.value == "paused":
        raise ConflictError(f"Container {name or container.id} is paused, unpause the container before exec")
    if container.restarting:
        raise ConflictError(f"Container {container.id} is restarting, wait until the container is running")
    if not container.alive:
        raise ConflictError(f"container {container.id} is not running")


async def _is_ending(container: Container) -> bool:
    """Whether it is ended or about to be: init kills everything in its pid namespace before it is gone itself."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while not _has_ended(container):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _has_ended(container: Container) -> bool:
    if container.pidfd is None or not container.alive:
        return True
    poll = select.poll()  # the process may be gone before its shim has said so
    poll.register(container.pidfd.fileno(), select.POLLIN)
    return bool(poll.poll(0))
