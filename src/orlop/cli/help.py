"""Help texts."""

from __future__ import annotations

from orlop.cli import tables
from orlop.cli.catalogue import COMMANDS, GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.cli.flags import Command, Flag

_WIDTH = 100
_COMMON = ("run", "exec", "ps", "images", "pull", "import", "version", "info")


def program_help() -> str:
    """Return what ``orlop --help`` shows."""
    parts = [
        "Usage:  orlop [OPTIONS] COMMAND",
        "A container engine that speaks the Docker Engine API",
        "Common Commands:\n" + _entries([(name, COMMANDS[name].summary) for name in _COMMON]),
        "Management Commands:\n" + _entries([(name, GROUPS[name][0]) for name in sorted(GROUPS)]),
        "Commands:\n" + _entries([(name, COMMANDS[name].summary) for name in sorted(COMMANDS) if name not in _COMMON]),
        "Global Options:\n"
        + _entries(
            [
                ("-c, --context string", "Use the engine of this context"),
                ("-H, --host string", "Address of the engine, unix:///path or tcp://host:port"),
                ("    --tls", "Use TLS; implied by --tlsverify"),
                (
                    "    --tlscacert string",
                    "Trust engines whose certificate this file's sign (default ~/.docker/ca.pem)",
                ),
                ("    --tlscert string", "Certificate to show (default ~/.docker/cert.pem)"),
                ("    --tlskey string", "Its private key (default ~/.docker/key.pem)"),
                ("    --tlsverify", "Use TLS and verify the engine"),
                ("-v, --version", "Print the version and quit"),
                ("    --help", "Print this text"),
            ]
        ),
        "Run 'orlop COMMAND --help' for more information on a command.",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def group_help(name: str) -> str:
    """Return what ``orlop container --help`` shows."""
    summary, entries = GROUPS[name]
    listed = _entries([(word, entries[word].summary) for word in sorted(entries)])
    return (
        f"Usage:  orlop {name} COMMAND\n\n{summary}\n\nCommands:\n{listed}\n"
        f"Run 'orlop {name} COMMAND --help' for more information on a command.\n"
    )


def command_help(command: Command, path: str) -> str:
    """Return what ``orlop run --help`` shows."""
    text = f"{usage(command, path)}\n\n{command.summary}\n"
    if command.flags:
        text += "\nOptions:\n" + _options(command.flags)
    return text


def usage(command: Command, path: str) -> str:
    """Return the usage line."""
    return f"Usage:  {path} {command.usage}".rstrip()


def _entries(pairs: Sequence[tuple[str, str]]) -> str:
    return tables.render([f"  {name}\t{text}" for name, text in pairs], minimum=0, padding=3)


def _options(flags: Sequence[Flag]) -> str:
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        letter = f"-{flag.short}, " if flag.short else "    "
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        rows.append((f"  {letter}--{flag.name}{kind}", flag.help))
    width = max(len(left) for left, _ in rows) + 3
    out = []
    for left, text in rows:
        lines = _wrap(text, max(_WIDTH - width, 30))
        out += [f"{left.ljust(width)}{lines[0]}", *(" " * width + line for line in lines[1:])]
    return "\n".join(out) + "\n"


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines
