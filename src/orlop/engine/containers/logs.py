"""``docker logs``: the entries that a container's shim wrote, and those to come until it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.engine.containers.log_target import log_path
from orlop.errors import InvalidParameterError
from orlop.logs.reader import read_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.engine.containers.container import Container
    from orlop.logs.entry import LogEntry
    from orlop.logs.reader import LogQuery


def container_log(container: Container, directory: str, query: LogQuery, *, follow: bool) -> AsyncIterator[LogEntry]:
    """Yield log entries.

    Args:
        container: whose.
        directory: where the container's files are.
        query: which.
        follow: go on until its program ends.

    Raises:
        InvalidParameterError: the container writes no log.
    """
    if container.definition.host.log_config.type == "none":
        raise InvalidParameterError("configured logging driver does not support reading")
    path = log_path(directory, container.id, container.definition.host.log_config)
    return read_log(path, query, follow=_end_of(container) if follow else None)


def _end_of(container: Container) -> asyncio.Event:
    """Return an event that is set when the program has ended."""
    ended = asyncio.Event()
    if container.alive:
        container.next_exit().add_done_callback(lambda _: ended.set())
    else:
        ended.set()
    return ended
