"""``orlop start`` and ``orlop attach``."""

from __future__ import annotations

import os

from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, write_error, write_out
from orlop.cli.run_flags import DETACH_KEYS
from orlop.cli.streaming import Session
from orlop.cli.terminal import size_of
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.client.connection import HijackedStream
    from orlop.spec.json import JsonObject


def _start(invocation: Invocation) -> int:
    options = invocation.options
    if options.on("attach") or options.on("interactive"):
        if len(invocation.arguments) > 1:
            raise CommandError("you cannot start and attach multiple containers at once")
        return _start_attached(invocation)
    failed = []
    for name in invocation.arguments:
        try:
            invocation.client.containers.start(name, detach_keys=options.text("detach-keys"))
        except OrlopError as error:
            write_error(f"Error response from daemon: {error}")
            failed.append(name)
        else:
            write_out(name)
    if failed:
        raise CommandError(f"failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(invocation: Invocation) -> int:
    options, containers = invocation.options, invocation.client.containers
    inspected = containers.inspect(invocation.arguments[0])
    container = str(inspected.get("Id", ""))
    stdin = options.on("interactive") and _config(inspected, "OpenStdin")
    stream = containers.attach(container, stdin=stdin, detach_keys=options.text("detach-keys"))
    removed = _member(inspected, "HostConfig").get("AutoRemove") is True
    waiting = containers.begin_wait(container, condition="removed" if removed else "next-exit")
    try:
        containers.start(container)
    except OrlopError:
        stream.close()
        waiting.close()
        raise
    session = _session(invocation, stream, inspected, stdin=stdin)
    session.run()
    if session.detached:
        waiting.close()
        return 0
    return waiting.result()


def _attach(invocation: Invocation) -> int:
    options, containers = invocation.options, invocation.client.containers
    waiting = containers.begin_wait(invocation.arguments[0])
    inspected = containers.inspect(invocation.arguments[0])
    state = _member(inspected, "State")
    for member, text in (
        ("Running", "You cannot attach to a stopped container, start it first"),
        ("Paused", "You cannot attach to a paused container, unpause it first"),
        ("Restarting", "You cannot attach to a restarting container, wait until it is running"),
    ):
        if bool(state.get(member)) != (member == "Running"):
            raise CommandError(text)
    stdin = not options.on("no-stdin") and _config(inspected, "OpenStdin")
    if stdin and _config(inspected, "Tty") and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    container = str(inspected.get("Id", ""))
    stream = containers.attach(container, stdin=stdin, detach_keys=options.text("detach-keys"))
    if _config(inspected, "Tty"):
        _disturb(invocation, container)
    session = _session(invocation, stream, inspected, stdin=stdin)
    session.run()
    if session.detached:
        waiting.close()
        write_error("read escape sequence")
        return 0
    return waiting.result()


def _disturb(invocation: Invocation, container: str) -> None:
    """Give a terminal another size before it gets the window's: a shell at its prompt shows it again only then."""
    size = size_of(1)
    if size is not None:
        try:
            invocation.client.containers.resize(container, height=size[0] + 1, width=size[1] + 1)
        except OrlopError:
            return  # it is gone already


def _session(invocation: Invocation, stream: HijackedStream, inspected: JsonObject, *, stdin: bool) -> Session:
    containers, container = invocation.client.containers, str(inspected.get("Id", ""))
    proxied = invocation.options.on("sig-proxy") and not _config(inspected, "Tty")
    return Session(
        stream,
        tty=_config(inspected, "Tty"),
        stdin=stdin,
        detach_keys=invocation.options.text("detach-keys"),
        resize=lambda height, width: containers.resize(container, height=height, width=width),
        kill=(lambda name: containers.kill(container, signal=name)) if proxied else None,
    )


def _member(document: JsonObject, name: str) -> JsonObject:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _config(inspected: JsonObject, name: str) -> bool:
    return _member(inspected, "Config").get(name) is True


_SIG_PROXY = Flag("sig-proxy", "Pass signals on to the process", default=True)
START = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start stopped containers",
    _start,
    flags=(
        Flag("attach", "Attach standard output and error, and pass signals on", short="a"),
        DETACH_KEYS,
        Flag("interactive", "Attach standard input", short="i"),
        _SIG_PROXY,
    ),
    arguments=(1, None),
)
ATTACH = Command(
    "[OPTIONS] CONTAINER",
    "Join the standard streams of a running container",
    _attach,
    flags=(DETACH_KEYS, Flag("no-stdin", "Do not attach standard input"), _SIG_PROXY),
    arguments=(1, 1),
)
