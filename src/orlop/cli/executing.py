"""``orlop exec``."""

from __future__ import annotations

import os

from orlop.cli.bodies import environment
from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation
from orlop.cli.refusals import start_status
from orlop.cli.run_flags import DETACH_KEYS, ENV_FILE, ENVIRONMENT
from orlop.cli.streaming import Session
from orlop.cli.terminal import size_of
from orlop.client.failure import ConnectionFailedError
from orlop.errors import OrlopError


def _exec(invocation: Invocation) -> int:
    options, execs = invocation.options, invocation.client.execs
    container, *command = invocation.arguments
    detached, tty, interactive = options.on("detach"), options.on("tty"), options.on("interactive")
    document: dict[str, object] = {
        "User": options.text("user"),
        "Privileged": options.on("privileged"),
        "Tty": tty,
        "AttachStdin": interactive and not detached,
        "AttachStderr": not detached,
        "AttachStdout": not detached,
        "Detach": detached,
        "DetachKeys": options.text("detach-keys"),
        "Env": [*environment(options)] or None,
        "WorkingDir": options.text("workdir"),
        "Cmd": [*command],
    }
    size = size_of(1) if tty and not detached else None
    if size is not None:
        document["ConsoleSize"] = [*size]
    if tty and interactive and not detached and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    session = execs.create(container, document)
    try:
        if detached:
            execs.start_detached(session, tty=tty)
            return 0
        stream = execs.start(session, tty=tty, size=size)
    except ConnectionFailedError:
        raise
    except OrlopError as error:
        status = start_status(str(error))
        raise CommandError(f"Error response from daemon: {error}", status=status if status != 125 else 1) from None
    Session(
        stream,
        tty=tty,
        stdin=interactive,
        detach_keys=options.text("detach-keys"),
        resize=lambda height, width: execs.resize(session, height=height, width=width),
    ).run()
    code = execs.inspect(session).get("ExitCode")
    return code if isinstance(code, int) else 0


EXEC = Command(
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Run a command in a running container",
    _exec,
    flags=(
        Flag("detach", "Run in the background", short="d"),
        DETACH_KEYS,
        ENVIRONMENT,
        ENV_FILE,
        Flag("interactive", "Keep standard input open", short="i"),
        Flag("privileged", "Give all privileges to the command"),
        Flag("tty", "Give it a terminal", short="t"),
        Flag("user", "User (name|uid[:group|gid])", short="u", kind="string"),
        Flag("workdir", "Working directory", short="w", kind="string"),
    ),
    arguments=(2, None),
    first_argument_ends=True,
)
