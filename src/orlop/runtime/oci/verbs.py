"""The commands that run for every container, with runc's flags; the others are in ``rare_verbs``.

A table costs its module's loading, each command in it its making, and a runtime is started for every container.
"""

from __future__ import annotations

from orlop.runtime.oci.options import Flag
from orlop.spec.record import dataclass


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        meaning: one line of help.
        usage: its arguments.
        flags: what it takes.
        least: how many arguments at least.
        most: at most; -1 is any number.
        action: ``module:function`` in this package; the function takes an Invocation and returns an exit status.
        interspersed: flags may follow the first argument.
    """

    meaning: str
    usage: str
    flags: tuple[Flag, ...]
    least: int
    most: int
    action: str
    interspersed: bool = True


ID = "<container-id>"
BUNDLE = Flag(("bundle", "b"), "DIR", "the bundle's directory (default: the current one)")
CONSOLE = Flag(("console-socket",), "PATH", "unix socket that receives the master end of the terminal")
PID_FILE = Flag(("pid-file",), "FILE", "write the process' pid to FILE")
DETACH = Flag(("detach", "d"), "", "return when the program runs")
NO_PIVOT = Flag(("no-pivot",), "", "refused: chroot is no boundary")
NO_SUBREAPER = Flag(("no-subreaper",), "", "do not adopt orphaned processes")


def _create_flags() -> tuple[Flag, ...]:
    return (
        BUNDLE,
        CONSOLE,
        PID_FILE,
        NO_PIVOT,
        Flag(("no-new-keyring",), "", "keep the caller's session keyring"),
        Flag(("preserve-fds",), "N", "hand N descriptors after stdio (and LISTEN_FDS) to the container"),
    )


def _create() -> Verb:
    return Verb("create a container", ID, _create_flags(), 1, 1, "create:create")


def _run() -> Verb:
    keep = Flag(("keep",), "", "do not delete the container when it ends")
    return Verb("create, start, wait, delete", ID, (*_create_flags(), DETACH, keep, NO_SUBREAPER), 1, 1, "create:run")


def _exec() -> Verb:
    flags = (
        CONSOLE,
        Flag(("cwd",), "DIR", "working directory in the container"),
        Flag(("env", "e"), "NAME=VALUE", "add to the environment", many=True),
        Flag(("tty", "t"), "", "allocate a terminal"),
        Flag(("user", "u"), "UID[:GID]", "run as this user"),
        Flag(("additional-gids", "g"), "GID", "add a supplementary group", many=True),
        Flag(("process", "p"), "FILE", "read the process object from FILE"),
        DETACH,
        PID_FILE,
        Flag(("process-label",), "LABEL", "SELinux label"),
        Flag(("apparmor",), "PROFILE", "AppArmor profile"),
        Flag(("no-new-privs",), "", "set no_new_privs"),
        Flag(("cap", "c"), "CAP", "add a capability", many=True),
        Flag(("preserve-fds",), "N", "hand N descriptors after stdio (and LISTEN_FDS) to the process"),
        Flag(("cgroup",), "[CONTROLLER,...:]PATH", "run it in this existing cgroup below the container's", many=True),
        Flag(("ignore-paused",), "", "allow it in a paused container"),
    )
    usage = f"{ID} <command> [args...]"
    return Verb("execute a process in a container", usage, flags, 1, -1, "execute:execute", interspersed=False)


def _delete() -> Verb:
    force = Flag(("force", "f"), "", "kill it first")
    return Verb("delete what a stopped container left", ID, (force,), 1, 1, "control:delete")


def _kill() -> Verb:
    to_all = Flag(("all", "a"), "", "to all processes")
    return Verb("send a signal (default: SIGTERM) to init", f"{ID} [signal]", (to_all,), 1, 2, "control:kill")


def _start() -> Verb:
    return Verb("execute the program of a created container", ID, (), 1, 1, "control:start")


def _state() -> Verb:
    return Verb("show the state of a container", ID, (), 1, 1, "listing:show_state")


_VERBS = {
    "create": _create,
    "delete": _delete,
    "exec": _exec,
    "kill": _kill,
    "run": _run,
    "start": _start,
    "state": _state,
}


def find_verb(name: str) -> Verb | None:
    """Return a command by its name."""
    if name in _VERBS:
        return _VERBS[name]()
    from orlop.runtime.oci.rare_verbs import VERBS

    return VERBS.get(name)


def all_verbs() -> dict[str, Verb]:
    """Return every command, sorted by name."""
    from orlop.runtime.oci.rare_verbs import VERBS

    return dict(sorted({**{name: verb() for name, verb in _VERBS.items()}, **VERBS}.items()))
