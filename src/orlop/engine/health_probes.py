"""Health probes: execs that nobody attached to, whose output is kept as far as Docker keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import TYPE_CHECKING

from orlop.engine.containers.health import OUTPUT_LIMIT, HealthMonitor
from orlop.errors import OrlopError
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.docker.containers import ExecCreate

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.events import Events
    from orlop.engine.exec import ExecService, Session
    from orlop.spec.docker.containers import HealthConfig


class HealthProbes:
    """Begins the health checks of containers; a container's monitor is its own."""

    def __init__(self, execs: ExecService, events: Events) -> None:
        self._execs = execs
        self._events = events

    def begin(self, container: Container) -> None:
        """Probe a container that was started or taken up, if it has a health check."""
        config = container.definition.config.healthcheck
        if config is None or not config.test or config.test[0] == "NONE":
            return
        monitor = HealthMonitor(
            config,
            probe=lambda timeout: self._probe(container, config, timeout),
            changed=lambda status: self._changed(container, status),
        )
        container.health = monitor
        monitor.start()

    def _changed(self, container: Container, status: str) -> None:
        self._events.publish("container", f"health_status: {status}", container.id, container.attributes())

    async def _probe(self, container: Container, config: HealthConfig, timeout: float) -> tuple[int, str]:
        kind, *words = config.test or [""]
        if kind == "CMD-SHELL":
            words = [*(container.definition.config.shell or ["/bin/sh", "-c"]), " ".join(words)]
        request = ExecCreate(cmd=words, attach_stdout=True, attach_stderr=True)
        session = self._execs.get(self._execs.create(container.id, request))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with ours:
            ours.setblocking(False)
            output = bytearray()
            try:
                async with asyncio.timeout(timeout):
                    await self._execs.start(session, OwnedFd(theirs.detach()), multiplexed=False)
                    await _read_all(ours, output)
                    while session.exit_code is None and session.shim is not None:
                        await asyncio.wait([session.shim.ended])
                        await asyncio.sleep(0)
            except TimeoutError:
                await _kill(session)
                return -1, ""
        code = session.exit_code
        return (code if code is not None else -1), output.decode("utf-8", "replace")


async def _kill(session: Session) -> None:
    if session.shim is not None:
        with contextlib.suppress(OrlopError):
            await session.shim.signal(signal.SIGKILL)


async def _read_all(sock: socket.socket, output: bytearray) -> None:
    """Read to the end; beyond the limit bytes are dropped, so that the probe never blocks on us."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, 65536):
        output += data[: max(0, OUTPUT_LIMIT - len(output))]
