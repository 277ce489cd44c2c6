"""``orlop events``."""

from __future__ import annotations

import sys
import time

from orlop.cli.documents import member, number, text
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FILTER, execute
from orlop.cli.invocation import Invocation, parse_filters
from orlop.cli.logs import moment
from orlop.cli.text import safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def _events(invocation: Invocation) -> int:
    options = invocation.options
    form = "{{json .}}" if options.text("format") == "json" else options.text("format")
    stream = invocation.client.system.events(
        since=moment(options.text("since"), "since"),
        until=moment(options.text("until"), "until"),
        filters=parse_filters(options.texts("filter")),
    )
    for event in stream:
        line = execute(form, event) if form else describe(event)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0


def describe(event: Mapping[str, object]) -> str:
    """Return an event as Docker prints it, "TIME TYPE ACTION ID (key=value, …)"."""
    nanoseconds = number(event, "timeNano") or number(event, "time") * 10**9
    seconds, fraction = divmod(nanoseconds, 10**9)
    local = time.localtime(seconds)
    offset = time.strftime("%z", local)
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{fraction:09d}{zone}"
    actor = member(event, "Actor")
    attributes = member(actor, "Attributes")
    words = " ".join(["", text(event, "Type"), text(event, "Action"), text(actor, "ID")])
    listed = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    return safe(f"{stamp}{words}{f' ({listed})' if attributes else ''}")


EVENTS = Command(
    "[OPTIONS]",
    "Show what happens in the engine, as it happens",
    _events,
    flags=(
        FILTER,
        Flag("format", "Format output: 'json', or a Go template", kind="string"),
        Flag("since", "Begin with what happened since this time", kind="string"),
        Flag("until", "End at this time", kind="string"),
    ),
)
