"""``orlop logs``."""

from __future__ import annotations

import time

from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation
from orlop.cli.quantities import timestamp
from orlop.cli.streaming import write_all
from orlop.client.stdcopy import STDERR, Demultiplexer


def _logs(invocation: Invocation) -> int:
    options, containers = invocation.options, invocation.client.containers
    inspected = containers.inspect(invocation.arguments[0])
    config = inspected.get("Config")
    tty = isinstance(config, dict) and config.get("Tty") is True
    response = containers.logs(
        str(inspected.get("Id", "")),
        follow=options.on("follow"),
        timestamps=options.on("timestamps"),
        details=options.on("details"),
        since=moment(options.text("since"), "since"),
        until=moment(options.text("until"), "until"),
        tail=options.text("tail"),
    )
    demultiplexer = Demultiplexer()
    with response:
        for chunk in response.chunks():
            if tty:
                write_all(1, chunk)
                continue
            for number, payload in demultiplexer.feed(chunk):
                write_all(2 if number == STDERR else 1, payload)
    return 0


def moment(text: str, flag: str) -> str:
    """Return a time as the API takes it; "" stays.

    Raises:
        CommandError: not a time.
    """
    if not text:
        return ""
    try:
        return timestamp(text, time.time())
    except ValueError as error:
        raise CommandError(f'invalid value for "{flag}": {error}') from None


LOGS = Command(
    "[OPTIONS] CONTAINER",
    "Show what a container wrote",
    _logs,
    flags=(
        Flag("details", "Show the logging driver's details"),
        Flag("follow", "Go on with what is written from now on", short="f"),
        Flag("since", "From this time on (2013-01-02T13:23:37Z), or this long ago (42m)", kind="string"),
        Flag("tail", "Number of lines from the end", short="n", kind="string", default="all"),
        Flag("timestamps", "Show times", short="t"),
        Flag("until", "Up to this time, or this long ago", kind="string"),
    ),
    arguments=(1, 1),
)
