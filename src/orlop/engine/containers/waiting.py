"""``docker wait``, and others who wait for a container's end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.runtime.namespaces import ENDED

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.state import State
    from orlop.errors import ConflictError

# Seconds that the end of a container takes at most to be noted.
_SETTLING = 10.0


def wait(container: Container, condition: str) -> asyncio.Future[tuple[int, str]]:
    """Return a future of exit code and error text; the condition is watched from now on.

    Args:
        container: whose end is waited for.
        condition: ``not-running`` (or empty), ``next-exit``, ``removed``.

    Raises:
        InvalidParameterError: another condition.
    """
    if condition not in {"", "not-running", "next-exit", "removed"}:
        raise InvalidParameterError(f"invalid condition: {condition!r}".replace("'", '"'))
    result: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
    if condition in {"", "not-running"} and not container.state.running:
        result.set_result(_outcome(container.state))
        return result
    source = container.removal() if condition == "removed" else container.next_exit()
    source.add_done_callback(lambda done: _pass_on(done, result))
    result.add_done_callback(lambda _: source.cancel())
    return result


def _outcome(state: State) -> tuple[int, str]:
    # A start that failed is told to whoever started; the waiting client gets the code alone, as from dockerd.
    return state.exit_code, ""


def _pass_on(source: asyncio.Future[State], result: asyncio.Future[tuple[int, str]]) -> None:
    if not source.cancelled() and not result.done():
        result.set_result(_outcome(source.result()))


async def wait_end(container: Container, error: ConflictError) -> None:
    """Wait until the end of a container is noted whose process was found to be ending; raise the error if it is not."""
    if str(error) != ENDED:
        raise error
    if container.ending is not None:
        await asyncio.wait({container.ending}, timeout=_SETTLING)
