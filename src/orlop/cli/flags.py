"""Flags as Docker's command line reads them (pflag's rules, which argparse cannot follow), with pflag's refusals.

``-it``, ``-eA=B``, ``-e A=B``, ``--env=A=B``, ``--rm=false``; flags may stand between arguments unless the command says
that the first argument ends them (run, exec); ``--`` ends them always.
"""

from __future__ import annotations

from orlop.spec.truth import parse_bool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.cli.invocation import Invocation


class UsageError(Exception):
    """A command line that cannot be run; the message is shown with the usage line."""


class HelpRequestedError(Exception):
    """``--help`` was given."""


def integer(text: str) -> int:
    """Read a number as Go's strconv.ParseInt with base 0, in 64 bits."""
    try:
        value = int(text, 0) if text.isascii() and " " not in text else int("x")
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def string(text: str) -> str:
    """Take any text."""
    return text


class Flag:
    """One flag.

    Attributes:
        name: long name.
        help: one sentence.
        short: its letter, or "".
        kind: "bool", "string", "int", "list", "bytes", …: what ``--help`` shows and how it is collected.
        convert: from text, raising ValueError with the reason.
        many: it may be given several times; the value is a list.
        default: value when absent.
    """

    __slots__ = ("convert", "default", "help", "kind", "many", "name", "short")

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 - the word that users of such tables expect
        *,
        short: str = "",
        kind: str = "bool",
        convert: Callable[[str], object] | None = None,
        many: bool | None = None,
        default: object = None,
    ) -> None:
        self.name = name
        self.help = help
        self.short = short
        self.kind = kind
        self.many = kind in ("list", "map", "filter", "ulimit", "mount", "network") if many is None else many
        self.convert: Callable[[str], object] = string
        if convert is not None:
            self.convert = convert
        elif kind in ("bool", "int"):
            self.convert = parse_bool if kind == "bool" else integer
        if default is None:
            default = () if self.many else {"bool": False, "int": 0, "string": ""}.get(kind)
        self.default = default

    @property
    def label(self) -> str:
        """The flag as error messages name it, "-m, --memory"."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    @property
    def takes_value(self) -> bool:
        """Whether a value must follow."""
        return self.kind != "bool"


class Options:
    """Values of a command's flags."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._values: dict[str, object] = {flag.name: flag.default for flag in flags}
        self._changed: set[str] = set()

    def put(self, flag: Flag, value: object) -> None:
        """Store one occurrence."""
        if flag.many:
            before = self._values[flag.name] if flag.name in self._changed else ()
            value = (*before, value) if isinstance(before, tuple) else (value,)
        self._values[flag.name] = value
        self._changed.add(flag.name)

    def given(self, name: str) -> bool:
        """Whether the flag was on the command line."""
        return name in self._changed

    def on(self, name: str) -> bool:
        """Return a bool flag."""
        return bool(self._values[name])

    def text(self, name: str) -> str:
        """Return a string flag."""
        value = self._values[name]
        return "" if value is None else str(value)

    def number(self, name: str) -> int:
        """Return an int, bytes or duration flag."""
        value = self._values[name]
        return value if isinstance(value, int) else 0

    def maybe_number(self, name: str) -> int | None:
        """Return an int flag, or None when it was not given."""
        return self.number(name) if self.given(name) else None

    def texts(self, name: str) -> list[str]:
        """Return a list flag."""
        value = self._values[name]
        return [str(item) for item in value] if isinstance(value, tuple) else []

    def values(self, name: str) -> tuple[object, ...]:
        """Return a list flag's converted values."""
        value = self._values[name]
        return value if isinstance(value, tuple) else ()


class Command:
    """A command of the tree.

    Attributes:
        usage: what follows its path in the usage line, "[OPTIONS] CONTAINER [CONTAINER...]".
        summary: one sentence for help.
        run: does it and returns the exit code.
        flags: its own flags.
        minimum, maximum: number of arguments; maximum None is any.
        first_argument_ends: flags after the first argument belong to the container's command.
        prefixed: errors bear the program's name and a hint, as those of run and create do, and exit with 125.
    """

    __slots__ = ("first_argument_ends", "flags", "maximum", "minimum", "prefixed", "run", "summary", "usage")

    def __init__(
        self,
        usage: str,
        summary: str,
        run: Callable[[Invocation], int],
        *,
        flags: Sequence[Flag] = (),
        arguments: tuple[int, int | None] = (0, 0),
        first_argument_ends: bool = False,
        prefixed: bool = False,
    ) -> None:
        self.usage = usage
        self.summary = summary
        self.run = run
        self.flags = flags
        self.minimum, self.maximum = arguments
        self.first_argument_ends = first_argument_ends
        self.prefixed = prefixed


def parse(
    flags: Sequence[Flag], words: Sequence[str], *, first_argument_ends: bool = False
) -> tuple[Options, list[str]]:
    """Read a command's flags.

    Returns:
        the options and the arguments.

    Raises:
        UsageError: in pflag's words.
        HelpRequestedError: --help.
    """
    options = Options(flags)
    arguments: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if word.startswith("--"):
            _long(flags, options, word[2:], rest)
        elif word.startswith("-") and len(word) > 1:
            _short(flags, options, word[1:], rest)
        else:
            arguments.append(word)
            if first_argument_ends:
                arguments += rest
                break
    return options, arguments


def check_count(command: Command, path: str, count: int) -> None:
    """Compare the number of arguments with what the command takes.

    Raises:
        UsageError: in Docker's words.
    """
    low, high = command.minimum, command.maximum
    if low <= count and (high is None or count <= high):
        return
    if high == 0:
        raise UsageError(f"'{path}' accepts no arguments")
    if low == high:
        raise UsageError(f"'{path}' requires {low} argument{'s' if low != 1 else ''}")
    if high is None or count < low:
        raise UsageError(f"'{path}' requires at least {low} argument{'s' if low != 1 else ''}")
    raise UsageError(f"'{path}' requires at most {high} argument{'s' if high != 1 else ''}")


def _long(flags: Sequence[Flag], options: Options, text: str, rest: list[str]) -> None:
    name, equals, value = text.partition("=")
    if name == "help":
        raise HelpRequestedError
    flag = next((flag for flag in flags if flag.name == name), None)
    if flag is None:
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: --{text}")
        raise UsageError(f"unknown flag: --{name}")
    if not equals:
        if not flag.takes_value:
            value = "true"
        elif rest:
            value = rest.pop(0)
        else:
            raise UsageError(f"flag needs an argument: --{name}")
    _store(options, flag, value)


def _short(flags: Sequence[Flag], options: Options, letters: str, rest: list[str]) -> None:
    whole = letters
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = next((flag for flag in flags if flag.short == letter), None)
        if flag is None:
            if letter == "h":
                raise HelpRequestedError
            raise UsageError(f"unknown shorthand flag: '{letter}' in -{whole}")
        if not flag.takes_value and not letters.startswith("="):
            _store(options, flag, "true")
            continue
        if letters:
            value = letters.removeprefix("=")
        elif rest:
            value = rest.pop(0)
        else:
            raise UsageError(f"flag needs an argument: '{letter}' in -{whole}")
        _store(options, flag, value)
        return


def _store(options: Options, flag: Flag, text: str) -> None:
    try:
        options.put(flag, flag.convert(text))
    except ValueError as error:
        raise UsageError(f'invalid argument "{text}" for "{flag.label}" flag: {error}') from None
