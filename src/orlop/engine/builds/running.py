"""RUN: an ordinary container of the engine, whose output is the build's."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import secrets
import socket
from typing import TYPE_CHECKING

from msgspec import structs

from orlop.build.steps import RunStep, Step, StepFailedError
from orlop.errors import OrlopError
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.docker.containers import (
    ContainerConfig,
    ContainerCreate,
    HealthConfig,
    HostConfig,
    LogConfig,
    NetworkingConfig,
)
from orlop.spec.launch import AttachTarget

if TYPE_CHECKING:
    from orlop.engine.builds.mounting import Prepared
    from orlop.engine.builds.output import BuildOutput
    from orlop.engine.builds.records import BuildRecords
    from orlop.engine.containers import ContainerService
    from orlop.engine.containers.container import Container
    from orlop.image.records import Image

_STDERR = 2
_HEADER = 8
_PIECE = 1 << 16


class Runner:
    """Owns the containers of one build, from their making to :meth:`remove`."""

    def __init__(
        self, containers: ContainerService, records: BuildRecords, *, host: HostConfig, output: BuildOutput
    ) -> None:
        self._containers = containers
        self._records = records
        self._host = host
        self._output = output
        self._made: dict[int, list[Container]] = {}
        self._removing: set[asyncio.Task[None]] = set()

    async def run(self, image: Image, command: RunStep, step: Step, prepared: Prepared) -> Container:
        """Run a step's command to its end, with what was made for its mounts.

        Raises:
            StepFailedError: "The command '...' returned a non-zero code: 1".
            OrlopError: the container could not be made or started.
        """
        name = f"build_{secrets.token_hex(8)}"
        self._records.begin_container(name)
        try:
            request = self._request(image, command, prepared.env)
            container_id, _ = await self._containers.create(request, name, mounts=prepared.points)
        except BaseException:
            self._records.end_container(name)
            raise
        container = self._containers.get(container_id)
        container.private_env = tuple(prepared.private_env)
        self._made.setdefault(step.number, []).append(container)
        self._output.say(step, f" ---> Running in {container_id[:12]}\n")
        code = await self._finish(container, step)
        if code != 0:
            message = f"The command '{command.shown}' returned a non-zero code: {code}"
            raise StepFailedError(message, code, command.shown)
        return container

    def _request(self, image: Image, command: RunStep, env: list[str]) -> ContainerCreate:
        host = self._host
        if command.network:
            host = structs.replace(host, network_mode=command.network)
        if command.insecure:
            host = structs.replace(host, privileged=True)
        config = ContainerConfig(
            image=str(image.id),
            cmd=list(command.command),
            entrypoint=[""],
            env=[*command.env, *env],
            attach_stdout=True,
            attach_stderr=True,
            healthcheck=HealthConfig(test=["NONE"]),
        )
        return ContainerCreate(config=config, host_config=host, networking_config=NetworkingConfig())

    async def _finish(self, container: Container, step: Step) -> int:
        ours, theirs = socket.socketpair()
        with ours:
            await self._containers.attach(container, AttachTarget(), OwnedFd(theirs.detach()))
            ended = self._containers.wait(container.id, "next-exit")
            try:
                await self._containers.start(container.id)
                await self._copy_output(ours, step)
                code, _ = await ended
            finally:
                ended.cancel()
        return code

    async def _copy_output(self, ours: socket.socket, step: Step) -> None:
        """Tell the frames of Docker's stdcopy protocol, as they come, until the container has closed its streams."""
        reader, writer = await asyncio.open_connection(sock=ours.dup())
        decoders = {number: codecs.getincrementaldecoder("utf-8")("replace") for number in range(3)}
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while header := await reader.readexactly(_HEADER):
                    left = int.from_bytes(header[4:], "big")
                    while left:
                        piece = await reader.readexactly(min(left, _PIECE))
                        left -= len(piece)
                        text = decoders[min(header[0], _STDERR)].decode(piece)
                        # Docker's classic builder shows standard error in red.
                        self._output.say(step, f"\x1b[91m{text}\x1b[0m" if header[0] == _STDERR and text else text)
                        await self._output.wait_room()
        finally:
            writer.close()

    def remove(self, step: Step) -> None:
        """Remove the containers of a step; the next one need not wait for that."""
        for container in self._made.pop(step.number, ()):
            task = asyncio.create_task(self._remove(container))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)
            self._output.say(step, f" ---> Removed intermediate container {container.id[:12]}\n")

    async def remove_all(self) -> None:
        """Remove the containers of all steps."""
        while self._made:
            for container in self._made.popitem()[1]:
                await self._remove(container)
        await asyncio.gather(*self._removing)

    async def _remove(self, container: Container) -> None:
        with contextlib.suppress(OrlopError):
            await self._containers.remove(container.id, force=True, with_volumes=True)
        self._records.end_container(container.name)

    def leave(self, step: Step) -> None:
        """Let the containers of a step be the user's."""
        for container in self._made.pop(step.number, ()):
            self._records.end_container(container.name)

    def leave_ended(self) -> None:
        """Let the containers of all steps be the user's, but for those that run: nobody waits for these any more."""
        for number, containers in self._made.items():
            ended = [container for container in containers if not container.alive]
            self._made[number] = [container for container in containers if container.alive]
            for container in ended:
                self._records.end_container(container.name)


def host_config(limits: HostConfig) -> HostConfig:
    """Return the limits of a build with what every step has: its log is the build's output."""
    return structs.replace(limits, log_config=LogConfig(type="none"))
