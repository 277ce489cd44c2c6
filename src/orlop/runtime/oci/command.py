"""The command line of ``orlop-runtime``: runc's verbs, flags, words and exit codes.

Each verb's module is imported when it is asked for: ``state`` and ``kill`` need none of what ``create`` needs.
"""

from __future__ import annotations

import os
import sys

from orlop.errors import InvalidParameterError, OrlopError, os_error_text
from orlop.primitives.scope import suppress
from orlop.runtime.oci.log import ErrorLog
from orlop.runtime.oci.options import ArgumentCountError, Flag, Parsed, UsageError, describe, parse
from orlop.runtime.oci.state import StateStore, default_root
from orlop.runtime.oci.verbs import Verb, all_verbs, find_verb
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.runtime.cgroups import Hierarchies
    from orlop.runtime.namespaces import Caller

PROGRAM = "orlop-runtime"
# runc's exit status when exec itself fails; a process in the container may return anything up to 255 as well
_EXEC_FAILURE = 255
_UNKNOWN_VERB = 3
_GLOBAL = (
    Flag(("debug",), "", "log more"),
    Flag(("log",), "FILE", "append errors to FILE (default: stderr)"),
    Flag(("log-format",), "FORMAT", "text (default) or json"),
    Flag(("root",), "DIR", "where the state of containers is kept (default: /run/orlop-runtime)"),
    Flag(("criu",), "PATH", "the criu binary for checkpoint and restore (default: criu)"),
    Flag(("systemd-cgroup",), "", "make cgroups through systemd: cgroupsPath is slice:prefix:name"),
    Flag(("rootless",), "MODE", "ignore cgroup permission errors: true, false or auto (default)"),
    Flag(("help", "h"), "", "show this help"),
    Flag(("version", "v"), "", "show the version"),
)
_PREFIXED = {"create", "run"}


@dataclass(frozen=True)
class Invocation:
    """One verb being carried out.

    Attributes:
        options: the verb's own flags.
        arguments: what follows them.
        store: where containers are remembered.
        log: for warnings; errors are raised.
        settings: the flags before the verb.
    """

    options: Parsed
    arguments: list[str]
    store: StateStore
    log: ErrorLog
    settings: Parsed

    @property
    def hierarchies(self) -> Hierarchies:
        """The machine's cgroups; read once per process."""
        if not _HIERARCHIES:
            from orlop.runtime.cgroups import detect

            _HIERARCHIES.append(detect())
        return _HIERARCHIES[0]

    @property
    def caller(self) -> Caller:
        """Who calls; found out once per process."""
        if not _CALLER:
            from orlop.runtime.namespaces import find_caller

            _CALLER.append(find_caller())
        return _CALLER[0]

    @property
    def forgives_cgroups(self) -> bool:
        """Whether a container that asks nothing of its cgroup may go without where none can be made: ``--rootless``."""
        asked = self.settings.text("rootless")
        return self.caller.confined if asked in ("", "auto") else asked in ("true", "1")


_HIERARCHIES: list[Hierarchies] = []
_CALLER: list[Caller] = []


def run(arguments: list[str]) -> int:
    """Carry out a command line and return its exit status."""
    log = ErrorLog()
    verb = ""
    try:
        settings = parse(arguments, _GLOBAL, interspersed=False)
        if settings.switch("version"):
            return _version()
        if not settings.arguments or settings.switch("help") or settings.arguments[0] in ("help", "h"):
            return _help(settings.arguments[1:])
        log = _log(settings)
        verb, *rest = settings.arguments
        known = find_verb(verb)
        if known is None:
            log.report(f"No help topic for '{verb}'")
            return _UNKNOWN_VERB
        log.trace(f"{PROGRAM} {verb} {rest}")
        return _dispatch(verb, known, rest, log, settings)
    except UsageError as error:
        sys.stdout.write(f"{error.heading}\n\n{_help_of(verb)}")
        message, verb = str(error), ""
    except OrlopError as error:
        message = str(error)
    except BrokenPipeError:
        return 1
    except OSError as error:
        message = os_error_text(error)
    if verb in _PREFIXED:
        message = f"{PROGRAM} {verb} failed: {message}"
    elif verb == "exec":
        log.report(f"exec failed: {message}")
        return _EXEC_FAILURE
    log.report(message)
    return 1


def _log(settings: Parsed) -> ErrorLog:
    form = settings.text("log-format", "text")
    if form not in ("text", "json"):
        raise InvalidParameterError(f"invalid log-format: {form}")
    path = settings.text("log")
    # relative to where we were called: the bundle's directory is entered later; stderr may be a socket
    named = path not in ("", "/dev/stderr")
    log = ErrorLog(os.path.abspath(path) if named else "", format=form, verbose=settings.switch("debug"))
    log.make_file()
    return log


def _dispatch(verb: str, known: Verb, rest: list[str], log: ErrorLog, settings: Parsed) -> int:
    if any(word in ("--help", "-h") for word in (rest if known.interspersed else rest[:1])):
        return _help([verb])
    if settings.text("rootless") not in ("", "auto", "true", "false", "1", "0"):
        raise InvalidParameterError(f"invalid value for --rootless: {settings.text('rootless')}")
    parsed = parse(rest, known.flags, interspersed=known.interspersed)
    count = len(parsed.arguments)
    if count < known.least or (known.most >= 0 and count > known.most):
        bound = f"a minimum of {known.least}" if count < known.least else f"a maximum of {known.most}"
        wanted = f"exactly {known.least}" if known.least == known.most else bound
        raise ArgumentCountError(f'{PROGRAM}: "{verb}" requires {wanted} argument(s)')
    for flag in known.flags:
        values = parsed.values.get(flag.names[0], [])
        if len(values) > 1 and not flag.many:
            del values[:-1]
    store = StateStore(settings.text("root") or default_root())
    return _action(known)(Invocation(parsed, parsed.arguments, store, log, settings))


def _action(verb: Verb) -> Callable[[Invocation], int]:
    """Import what carries a command out."""
    module, _, function = verb.action.partition(":")
    name = f"orlop.runtime.oci.{module}"
    __import__(name)
    action: Callable[[Invocation], int] = getattr(sys.modules[name], function)
    return action


def _version() -> int:
    from orlop import __version__
    from orlop.spec.oci.config import SPEC_VERSION

    sys.stdout.write(f"{PROGRAM} version {__version__}\nspec: {SPEC_VERSION}\n")
    return 0


def _help(topics: list[str]) -> int:
    with suppress(BrokenPipeError):
        sys.stdout.write(_help_of(topics[0] if topics else ""))
    return 0


def _help_of(topic: str) -> str:
    """Return the help of a command; of all of them for anything else."""
    verbs = all_verbs()
    if topic in verbs:
        return _verb_help(topic, verbs[topic])
    width = max(map(len, verbs))
    rows = "".join(f"   {name.ljust(width)}  {verb.meaning}\n" for name, verb in verbs.items())
    return (
        f"NAME:\n   {PROGRAM} - Open Container Initiative runtime in Python\n\n"
        f"USAGE:\n   {PROGRAM} [global options] command [command options] [arguments...]\n\n"
        f"COMMANDS:\n{rows}\nGLOBAL OPTIONS:\n{describe(_GLOBAL)}"
    )


def _verb_help(name: str, verb: Verb) -> str:
    options = f"\nOPTIONS:\n{describe(verb.flags)}" if verb.flags else ""
    return (
        f"NAME:\n   {PROGRAM} {name} - {verb.meaning}\n\n"
        f"USAGE:\n   {PROGRAM} {name} [command options] {verb.usage}\n{options}"
    )
