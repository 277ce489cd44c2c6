"""The command line of ``orlop-runtime``: runc's verbs, flags, words and exit codes.

Each verb's module is imported when it is asked for: ``state`` and ``kill`` need none of what ``create`` needs.
"""

from __future__ import annotations

import os
import sys

from orlop.errors import InvalidParameterError, OrlopError, UnsupportedError
from orlop.primitives.scope import suppress
from orlop.runtime.oci.log import ErrorLog
from orlop.runtime.oci.options import Flag, Parsed, describe, parse
from orlop.runtime.oci.state import StateStore, default_root
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.runtime.cgroups import Hierarchies

PROGRAM = "orlop-runtime"
# runc's exit status when exec itself fails; a process in the container may return anything up to 255 as well
_EXEC_FAILURE = 255
_GLOBAL = (
    Flag(("debug",), "", "log more"),
    Flag(("log",), "FILE", "append errors to FILE (default: stderr)"),
    Flag(("log-format",), "FORMAT", "text (default) or json"),
    Flag(("root",), "DIR", "where the state of containers is kept (default: /run/orlop-runtime)"),
    Flag(("systemd-cgroup",), "", "not supported: cgroups are made through the file system"),
    Flag(("criu",), "PATH", "accepted for compatibility; checkpoints are not supported"),
    Flag(("rootless",), "MODE", "accepted for compatibility: true, false or auto"),
    Flag(("help", "h"), "", "show this help"),
    Flag(("version", "v"), "", "show the version"),
)
_BUNDLE = Flag(("bundle", "b"), "DIR", "the bundle's directory (default: the current one)")
_CREATE = (
    _BUNDLE,
    Flag(("console-socket",), "PATH", "unix socket that receives the master end of the terminal"),
    Flag(("pid-file",), "FILE", "write init's pid to FILE"),
    Flag(("no-pivot",), "", "refused: chroot is no boundary"),
    Flag(("no-new-keyring",), "", "keep the caller's session keyring"),
    Flag(("preserve-fds",), "N", "hand N descriptors after stdio (and LISTEN_FDS) to the container"),
)
_RUN = (
    *_CREATE,
    Flag(("detach", "d"), "", "return when the program runs"),
    Flag(("keep",), "", "do not delete the container when it ends"),
    Flag(("no-subreaper",), "", "do not adopt orphaned processes"),
)
_FORMAT = Flag(("format", "f"), "FORMAT", "table (default) or json")
_EXEC = (
    Flag(("console-socket",), "PATH", "unix socket that receives the master end of the terminal"),
    Flag(("cwd",), "DIR", "working directory in the container"),
    Flag(("env", "e"), "NAME=VALUE", "add to the environment", many=True),
    Flag(("tty", "t"), "", "allocate a terminal"),
    Flag(("user", "u"), "UID[:GID]", "run as this user"),
    Flag(("additional-gids", "g"), "GID", "add a supplementary group", many=True),
    Flag(("process", "p"), "FILE", "read the process object from FILE"),
    Flag(("detach", "d"), "", "return when the program runs"),
    Flag(("pid-file",), "FILE", "write the process' pid to FILE"),
    Flag(("process-label",), "LABEL", "SELinux label"),
    Flag(("apparmor",), "PROFILE", "AppArmor profile"),
    Flag(("no-new-privs",), "", "set no_new_privs"),
    Flag(("cap", "c"), "CAP", "add a capability", many=True),
    Flag(("preserve-fds",), "N", "hand N descriptors after stdio to the process"),
    Flag(("cgroup",), "PATH", "refused: sub-cgroups are not supported", many=True),
    Flag(("ignore-paused",), "", "allow it in a paused container"),
)
_UPDATE = (
    Flag(("resources", "r"), "FILE", "read linux.resources from FILE, or from standard input (-)"),
    Flag(("blkio-weight",), "WEIGHT", "10..1000"),
    Flag(("cpu-period",), "USEC", "CFS period"),
    Flag(("cpu-quota",), "USEC", "CPU time in a period"),
    Flag(("cpu-burst",), "USEC", "CPU time that may be saved up"),
    Flag(("cpu-share",), "SHARES", "relative weight"),
    Flag(("cpu-rt-period",), "USEC", "real-time period"),
    Flag(("cpu-rt-runtime",), "USEC", "real-time budget"),
    Flag(("cpu-idle",), "0|1", "SCHED_IDLE for the group"),
    Flag(("cpuset-cpus",), "LIST", "CPUs"),
    Flag(("cpuset-mems",), "LIST", "memory nodes"),
    Flag(("memory",), "BYTES", "memory limit"),
    Flag(("memory-reservation",), "BYTES", "soft limit"),
    Flag(("memory-swap",), "BYTES", "memory and swap; -1 is unlimited"),
    Flag(("pids-limit",), "N", "number of tasks"),
)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One verb being carried out."""

    options: Parsed
    arguments: list[str]
    store: StateStore
    log: ErrorLog

    @property
    def hierarchies(self) -> Hierarchies:
        """The machine's cgroups; read once per process."""
        if not _HIERARCHIES:
            from orlop.runtime.cgroups import detect

            _HIERARCHIES.append(detect())
        return _HIERARCHIES[0]


_HIERARCHIES: list[Hierarchies] = []


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: what it does, its flags, how many arguments it takes (-1: any number)."""

    meaning: str
    usage: str
    flags: tuple[Flag, ...]
    least: int
    most: int
    interspersed: bool = True


_ID = "<container-id>"
VERBS: dict[str, Verb] = {
    "checkpoint": Verb("not supported", _ID, (), 0, -1),
    "create": Verb("create a container", _ID, _CREATE, 1, 1),
    "delete": Verb("delete what a stopped container left", _ID, (Flag(("force", "f"), "", "kill it first"),), 1, 1),
    "events": Verb("not supported", _ID, (), 0, -1),
    "exec": Verb("execute a process in a container", f"{_ID} <command> [args...]", _EXEC, 1, -1, interspersed=False),
    "features": Verb("show what this runtime can do", "", (), 0, 0),
    "kill": Verb(
        "send a signal (default: SIGTERM) to init",
        f"{_ID} [signal]",
        (Flag(("all", "a"), "", "to all processes"),),
        1,
        2,
    ),
    "list": Verb("list containers", "", (_FORMAT, Flag(("quiet", "q"), "", "ids only")), 0, 0),
    "pause": Verb("suspend all processes", _ID, (), 1, 1),
    "ps": Verb("show the processes in a container", _ID, (_FORMAT,), 1, -1, interspersed=False),
    "restore": Verb("not supported", _ID, (), 0, -1),
    "resume": Verb("resume all processes", _ID, (), 1, 1),
    "run": Verb("create, start, wait, delete", _ID, _RUN, 1, 1),
    "spec": Verb("write a configuration to start from", "", (_BUNDLE, Flag(("rootless",), "", "for one user")), 0, 0),
    "start": Verb("execute the program of a created container", _ID, (), 1, 1),
    "state": Verb("show the state of a container", _ID, (), 1, 1),
    "update": Verb("change limits", _ID, _UPDATE, 1, 1),
}
_PREFIXED = {"create", "run"}


def run(arguments: list[str]) -> int:
    """Carry out a command line and return its exit status."""
    log = ErrorLog()
    verb = ""
    try:
        options = parse(arguments, _GLOBAL, interspersed=False)
        log = _log(options)
        if options.switch("version"):
            return _version()
        if not options.arguments or options.switch("help") or options.arguments[0] in ("help", "h"):
            return _help(options.arguments[1:])
        verb, *rest = options.arguments
        if verb not in VERBS:
            log.report(f"No help topic for '{verb}'")
            return 3
        return _dispatch(verb, rest, StateStore(options.text("root") or default_root()), log, options)
    except OrlopError as error:
        message = str(error)
    except BrokenPipeError:
        return 1
    except OSError as error:
        message = _os_error(error)
    if verb in _PREFIXED:
        message = f"{PROGRAM} {verb} failed: {message}"
    elif verb == "exec":
        log.report(f"exec failed: {message}")
        return _EXEC_FAILURE
    log.report(message)
    return 1


def _os_error(error: OSError) -> str:
    """The kernel's words without a traceback."""
    if error.filename is None or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror.lower()}"


def _log(options: Parsed) -> ErrorLog:
    form = options.text("log-format", "text")
    if form not in ("text", "json"):
        raise InvalidParameterError(f'invalid log-format: "{form}"')
    path = options.text("log")
    # relative to where we were called: the bundle's directory is entered later
    return ErrorLog(os.path.abspath(path) if path else "", format=form)


def _dispatch(verb: str, rest: list[str], store: StateStore, log: ErrorLog, options: Parsed) -> int:
    if options.switch("systemd-cgroup"):
        raise UnsupportedError("--systemd-cgroup is not supported: the systemd cgroup driver is missing")
    known = VERBS[verb]
    if any(word in ("--help", "-h") for word in (rest if known.interspersed else rest[:1])):
        return _help([verb])
    if known.meaning == "not supported":
        raise UnsupportedError(f"{verb} is not supported")
    parsed = parse(rest, known.flags, interspersed=known.interspersed)
    count = len(parsed.arguments)
    if count < known.least or (known.most >= 0 and count > known.most):
        sys.stdout.write(f"Incorrect Usage.\n\n{_verb_help(verb)}")
        wanted = f"exactly {known.least}" if known.least == known.most else f"a minimum of {known.least}"
        raise InvalidParameterError(f'{PROGRAM}: "{verb}" requires {wanted} argument(s)')
    for flag in known.flags:
        values = parsed.values.get(flag.names[0], [])
        if len(values) > 1 and not flag.many:
            del values[:-1]
    return _action(verb)(Invocation(parsed, parsed.arguments, store, log))


def _action(verb: str) -> Callable[[Invocation], int]:
    if verb in ("create", "run"):
        from orlop.runtime.oci.create import create
        from orlop.runtime.oci.create import run as run_container

        return create if verb == "create" else run_container
    if verb == "exec":
        from orlop.runtime.oci.execute import execute

        return execute
    if verb in ("spec", "features"):
        from orlop.runtime.oci import documents

        return documents.write_spec if verb == "spec" else documents.show_features
    from orlop.runtime.oci import control

    actions: dict[str, Callable[[Invocation], int]] = {
        "delete": control.delete,
        "kill": control.kill,
        "list": control.list_containers,
        "pause": control.pause,
        "ps": control.ps,
        "resume": control.resume,
        "start": control.start,
        "state": control.show_state,
        "update": control.update,
    }
    return actions[verb]


def _version() -> int:
    from orlop import __version__
    from orlop.spec.oci.config import SPEC_VERSION

    sys.stdout.write(f"{PROGRAM} version {__version__}\nspec: {SPEC_VERSION}\n")
    return 0


def _help(topics: list[str]) -> int:
    if topics and topics[0] in VERBS:
        sys.stdout.write(_verb_help(topics[0]))
        return 0
    width = max(map(len, VERBS))
    rows = "".join(f"   {name.ljust(width)}  {verb.meaning}\n" for name, verb in VERBS.items())
    with suppress(BrokenPipeError):
        sys.stdout.write(
            f"NAME:\n   {PROGRAM} - Open Container Initiative runtime in Python\n\n"
            f"USAGE:\n   {PROGRAM} [global options] command [command options] [arguments...]\n\n"
            f"COMMANDS:\n{rows}\nGLOBAL OPTIONS:\n{describe(_GLOBAL)}"
        )
    return 0


def _verb_help(name: str) -> str:
    verb = VERBS[name]
    options = f"\nOPTIONS:\n{describe(verb.flags)}" if verb.flags else ""
    return (
        f"NAME:\n   {PROGRAM} {name} - {verb.meaning}\n\n"
        f"USAGE:\n   {PROGRAM} {name} [command options] {verb.usage}\n{options}"
    )
