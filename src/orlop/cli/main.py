"""The ``orlop`` command: global flags, the command's module, errors as exit codes.

Exit codes are Docker's: 125 for bad flags and for a failed run, 126 and 127 from run and exec, 1 else.
"""

from __future__ import annotations

import sys

from orlop.cli.catalogue import GROUPS, Entry, find
from orlop.cli.flags import Command, Flag, HelpRequestedError, UsageError, check_count, parse
from orlop.cli.invocation import CommandError, GlobalOptions, Invocation, write_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.flags import Options
    from orlop.client.address import TlsFlags

_GLOBAL = (
    Flag("host", "Address of the engine", short="H", kind="string"),
    Flag("context", "Use the engine of this context", short="c", kind="string"),
    Flag("version", "Print the version and quit", short="v"),
    Flag("debug", "Accepted for Docker's sake", short="D"),
    Flag("log-level", "Accepted for Docker's sake", short="l", kind="string"),
    Flag("tls", "Use TLS; implied by --tlsverify"),
    Flag("tlsverify", "Use TLS and verify the engine"),
    Flag("tlscacert", "Trust engines whose certificate this file's sign", kind="string"),
    Flag("tlscert", "Certificate to show", kind="string"),
    Flag("tlskey", "Its private key", kind="string"),
)
_BROKEN_PIPE = 141
_USAGE = 125


def entry() -> None:
    """Run the command of ``sys.argv`` and exit."""
    raise SystemExit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        status = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return 130
    return status


def _run(words: list[str]) -> int:
    try:
        options, rest = parse(_GLOBAL, words, first_argument_ends=True)
    except UsageError as error:
        write_error(f"{error}\n\nUsage:  orlop [OPTIONS] COMMAND\n\nRun 'orlop --help' for more information")
        return _USAGE
    except HelpRequestedError:
        return _print_help([])
    if options.on("version"):
        from orlop import __version__

        sys.stdout.write(f"orlop version {__version__}\n")
        return 0
    if rest and rest[0] == "help":
        return _print_help(rest[1:])
    if not rest:
        return _print_help([])
    if rest[0] == "daemon":
        from importlib import import_module  # by name: this layer may not depend on the daemon

        sys.argv = ["orlop daemon", *rest[1:]]
        return int(import_module("orlop.daemon.main").entry() or 0)
    entry_found, count = find(rest)
    if entry_found is None:
        return _unknown(rest)
    chosen = GlobalOptions(host=options.text("host"), context=options.text("context"), tls=_tls(options))
    return _invoke(entry_found, rest[:count], rest[count:], chosen)


def _tls(options: Options) -> TlsFlags | None:
    if not any(options.given(f"tls{name}") for name in ("", "verify", "cacert", "cert", "key")):
        return None
    from orlop.client.address import TlsFlags

    return TlsFlags(
        tls=options.on("tls") if options.given("tls") else None,
        tlsverify=options.on("tlsverify") if options.given("tlsverify") else None,
        cacert=options.text("tlscacert") if options.given("tlscacert") else None,
        cert=options.text("tlscert") if options.given("tlscert") else None,
        key=options.text("tlskey") if options.given("tlskey") else None,
    )


def load(found: Entry) -> Command:
    """Import a command."""
    from importlib import import_module

    command = getattr(import_module(f"orlop.cli.{found.module}"), found.constant)
    if not isinstance(command, Command):
        raise TypeError(f"no command: {found.module}.{found.constant}")
    return command


def _invoke(found: Entry, names: list[str], words: list[str], chosen: GlobalOptions) -> int:
    from orlop.errors import OrlopError

    command = load(found)
    path = " ".join(["orlop", *names])
    hint = f"Run '{path} --help' for more information"
    try:
        options, arguments = parse(command.flags, words, first_argument_ends=command.first_argument_ends)
    except HelpRequestedError:
        from orlop.cli.help import command_help

        sys.stdout.write(command_help(command, path))
        return 0
    except UsageError as error:
        write_error(f"{error}\n\n{_usage(command, path)}\n\n{hint}")
        return _USAGE
    try:
        check_count(command, path, len(arguments))
    except UsageError as error:
        if "at least" in str(error):
            hint = f"See '{path} --help' for more information"
        write_error(f"orlop: {error}\n\n{_usage(command, path)}\n\n{hint}")
        return 1
    invocation = Invocation(path, command, options, arguments, chosen=chosen)
    try:
        return command.run(invocation)
    except CommandError as error:
        if error.status == _USAGE and command.prefixed:
            write_error(f"orlop: {error}\n\n{hint}")
        elif str(error):
            write_error(str(error))
        return error.status
    except OrlopError as error:
        from orlop.cli.refusals import describe

        text, status = describe(error, prefixed=command.prefixed)
        write_error(f"orlop: {text}\n\n{hint}" if command.prefixed else text)
        return status
    finally:
        invocation.close()


def _usage(command: Command, path: str) -> str:
    from orlop.cli.help import usage

    return usage(command, path)


def _print_help(words: list[str]) -> int:
    from orlop.cli.help import command_help, group_help, program_help

    if not words:
        sys.stdout.write(program_help())
        return 0
    found, count = find(words)
    if found is not None and found.module:
        sys.stdout.write(command_help(load(found), " ".join(["orlop", *words[:count]])))
        return 0
    if words[0] in GROUPS:
        sys.stdout.write(group_help(words[0]))
        return 0
    return _unknown(words)


def _unknown(words: list[str]) -> int:
    group = words[0] if words[0] in GROUPS else ""
    if group and (len(words) == 1 or words[1] in ("--help", "-h", "help")):
        return _print_help([group])
    if group and words[1].startswith("-"):
        word = words[1].partition("=")[0]
        text = f"unknown flag: {word}" if word.startswith("--") else f"unknown shorthand flag: '{word[1]}' in {word}"
        write_error(f"{text}\n\nUsage:  orlop {group} COMMAND\n\nRun 'orlop {group} --help' for more information")
        return _USAGE
    if group:
        write_error(
            f"orlop: unknown command: orlop {group} {words[1]}\n\nUsage:  orlop {group} COMMAND\n\n"
            f"Run 'orlop {group} --help' for more information"
        )
        return 1
    write_error(f"orlop: unknown command: orlop {words[0]}\n\nRun 'orlop --help' for more information")
    return 1


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about a closed pipe when it flushes at exit."""
    import os

    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
