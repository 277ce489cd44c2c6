"""Health checks: a probe at once at the start, then at the interval; each is an exec session."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.spec.docker.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orlop.spec.docker.containers import HealthConfig
    from orlop.spec.json import JsonObject

_NANO = 1_000_000_000
_INTERVAL, _TIMEOUT, _START_INTERVAL = 30.0, 30.0, 5.0
_RETRIES = 3
_KEPT = 5
OUTPUT_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Probe:
    """One result; times in nanoseconds since the epoch."""

    start: int
    end: int
    exit_code: int
    output: str


class HealthMonitor:
    """Probes one running container.

    Args:
        config: the check.
        probe: runs the test command with a timeout in seconds; returns exit code (-1: timed out) and output.
        changed: called with the new status.
    """

    def __init__(
        self,
        config: HealthConfig,
        *,
        probe: Callable[[float], Awaitable[tuple[int, str]]],
        changed: Callable[[str], None],
    ) -> None:
        self._config = config
        self._probe = probe
        self._changed = changed
        self._log: deque[Probe] = deque(maxlen=_KEPT)
        self._failing = 0
        self._begun = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self.status = "starting"

    def start(self) -> None:
        """Begin probing."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Stop probing; what was found out stays readable."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def document(self) -> JsonObject:
        """Return ``State.Health``."""
        return {
            "Status": self.status,
            "FailingStreak": self._failing,
            "Log": [
                {
                    "Start": rfc3339(item.start),
                    "End": rfc3339(item.end),
                    "ExitCode": item.exit_code,
                    "Output": item.output,
                }
                for item in self._log
            ],
        }

    async def _run(self) -> None:
        config = self._config
        timeout = config.timeout / _NANO or _TIMEOUT
        while True:
            begun = time.time_ns()
            try:
                code, output = await self._probe(timeout)
            except OrlopError as error:
                code, output = -1, str(error)
            if code == -1 and not output:
                output = f"Health check exceeded timeout ({timeout:g}s)"
            self._note(Probe(begun, time.time_ns(), code, output[-OUTPUT_LIMIT:]))
            await asyncio.sleep(self._pause())

    def _in_start_period(self) -> bool:
        return self.status == "starting" and time.monotonic() - self._begun < self._config.start_period / _NANO

    def _pause(self) -> float:
        # Before it was healthy for the first time the shorter interval holds, with or without a start period.
        if self.status == "starting" and (self._config.start_interval or self._in_start_period()):
            return self._config.start_interval / _NANO or _START_INTERVAL
        return self._config.interval / _NANO or _INTERVAL

    def _note(self, probe: Probe) -> None:
        self._log.append(probe)
        before = self.status
        if probe.exit_code == 0:
            self._failing, self.status = 0, "healthy"
        elif not self._in_start_period():
            self._failing += 1
            if self._failing >= (self._config.retries or _RETRIES):
                self.status = "unhealthy"
        if self.status != before:
            self._changed(self.status)
