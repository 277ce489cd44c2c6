"""``stop restart kill wait rm pause unpause rename``: one request per container."""

from __future__ import annotations

from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, each, write_out

_MANY = "CONTAINER [CONTAINER...]"
_ANY = (1, None)
_SIGNAL = Flag("signal", "Signal to send", short="s", kind="string")
_TIMEOUT = Flag("timeout", "Seconds to wait before the container is killed", short="t", kind="int")
_TIME = Flag("time", "Old name of --timeout", kind="int")


def _timeout(invocation: Invocation) -> int | None:
    options = invocation.options
    if options.given("time") and options.given("timeout"):
        raise CommandError("conflicting options: cannot specify both --timeout and --time")
    return options.maybe_number("time") if options.given("time") else options.maybe_number("timeout")


def _stop(invocation: Invocation) -> int:
    timeout, signal = _timeout(invocation), invocation.options.text("signal")
    containers = invocation.client.containers
    return each(invocation, lambda name: containers.stop(name, timeout=timeout, signal=signal))


def _restart(invocation: Invocation) -> int:
    timeout, signal = _timeout(invocation), invocation.options.text("signal")
    containers = invocation.client.containers
    return each(invocation, lambda name: containers.restart(name, timeout=timeout, signal=signal))


def _kill(invocation: Invocation) -> int:
    containers, signal = invocation.client.containers, invocation.options.text("signal")
    return each(invocation, lambda name: containers.kill(name, signal=signal))


def _pause(invocation: Invocation) -> int:
    return each(invocation, invocation.client.containers.pause)


def _unpause(invocation: Invocation) -> int:
    return each(invocation, invocation.client.containers.unpause)


def _remove(invocation: Invocation) -> int:
    options, containers = invocation.options, invocation.client.containers

    def remove(name: str) -> None:
        from orlop.errors import NotFoundError

        stripped = name.strip("/")
        if not stripped:
            raise CommandError("Container name cannot be empty")
        try:
            containers.remove(
                stripped, force=options.on("force"), volumes=options.on("volumes"), link=options.on("link")
            )
        except NotFoundError:
            if not options.on("force"):
                raise

    return each(invocation, remove)


def _wait(invocation: Invocation) -> int:
    from orlop.cli.invocation import write_error
    from orlop.client.failure import ConnectionFailedError
    from orlop.errors import OrlopError

    failed = 0
    for name in invocation.arguments:
        try:
            write_out(str(invocation.client.containers.wait(name)))
        except ConnectionFailedError:
            raise
        except OrlopError as error:
            write_error(f"Error response from daemon: {error}")
            failed = 1
    return failed


def _rename(invocation: Invocation) -> int:
    old, new = (name.strip() for name in invocation.arguments)
    if not old or not new:
        raise CommandError("Error: Neither old nor new names may be empty")
    invocation.client.containers.rename(old, new)
    return 0


STOP = Command(f"[OPTIONS] {_MANY}", "Stop running containers", _stop, flags=(_SIGNAL, _TIMEOUT, _TIME), arguments=_ANY)
RESTART = Command(
    f"[OPTIONS] {_MANY}", "Stop and start containers", _restart, flags=(_SIGNAL, _TIMEOUT, _TIME), arguments=_ANY
)
KILL = Command(f"[OPTIONS] {_MANY}", "Send a signal to running containers", _kill, flags=(_SIGNAL,), arguments=_ANY)
PAUSE = Command(_MANY, "Freeze the processes of containers", _pause, arguments=_ANY)
UNPAUSE = Command(_MANY, "Thaw the processes of containers", _unpause, arguments=_ANY)
RM = Command(
    f"[OPTIONS] {_MANY}",
    "Remove containers",
    _remove,
    flags=(
        Flag("force", "Kill a running container first; a missing one is no error", short="f"),
        Flag("link", "Remove the link of this name", short="l"),
        Flag("volumes", "Remove its anonymous volumes too", short="v"),
    ),
    arguments=_ANY,
)
WAIT = Command(_MANY, "Wait until containers stop, then print their exit codes", _wait, arguments=_ANY)
RENAME = Command("CONTAINER NEW_NAME", "Give a container another name", _rename, arguments=(2, 2))
