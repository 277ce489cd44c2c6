"""Reading a command line as Go's ``flag`` and runc do: ``-x``, ``--x``, ``--x=v``, flags also after arguments.

argparse is 6 ms to import and knows neither; a runtime is started for every container.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.record import dataclass

# what Go's strconv.ParseBool takes
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), "true"),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), "false"),
}


class UsageError(InvalidParameterError):
    """A command line that cannot be read: told together with the command's help, without the command's own words."""

    @property
    def heading(self) -> str:
        """What the help is preceded by."""
        return f"Incorrect Usage: {self}"


class ArgumentCountError(UsageError):
    """Too few arguments, or too many."""

    heading = "Incorrect Usage."


@dataclass(frozen=True)
class Flag:
    """One flag: its names, the placeholder of its value (empty for a switch) and what it means."""

    names: tuple[str, ...]
    value: str
    meaning: str
    many: bool = False


class Parsed:
    """What was read: flags by their first name, and the arguments."""

    __slots__ = ("arguments", "values")

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.arguments: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """Return a flag's last value."""
        values = self.values.get(name)
        return values[-1] if values else default

    def texts(self, name: str) -> list[str]:
        """Return all values of a flag that may be repeated."""
        return self.values.get(name, [])

    def switch(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.text(name) == "true"

    def given(self, name: str) -> bool:
        """Whether the flag is there at all."""
        return name in self.values

    def number(self, name: str, default: int = 0) -> int:
        """Return a flag's value as an integer. Raises UsageError."""
        text = self.text(name)
        if not text:
            return default
        digits = text[1:] if text[0] in "+-" else text
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
            raise UsageError(f'invalid value "{text}" for flag -{name}: parse error')
        return int(text)


def parse(arguments: list[str], flags: tuple[Flag, ...], *, interspersed: bool) -> Parsed:
    """Separate flags from arguments; everything after ``--``, or after the first argument unless ``interspersed``.

    Raises:
        UsageError: in the words of Go's package.
    """
    by_name = {name: flag for flag in flags for name in flag.names}
    parsed = Parsed()
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            parsed.arguments.extend(rest)
        elif len(argument) < 2 or argument[0] != "-":
            parsed.arguments.append(argument)
            if not interspersed:
                parsed.arguments.extend(rest)
        else:
            name, equals, value = argument.lstrip("-").partition("=")
            flag = by_name.get(name)
            if flag is None:
                raise UsageError(f"flag provided but not defined: -{name}")
            if not flag.value:
                value = value if equals else "true"
                if value not in _BOOLEANS:
                    raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
                value = _BOOLEANS[value]
            elif not equals:
                following = next(rest, None)
                if following is None:
                    raise UsageError(f"flag needs an argument: -{name}")
                value = following
            parsed.values.setdefault(flag.names[0], []).append(value)
    return parsed


def describe(flags: tuple[Flag, ...]) -> str:
    """Return the flags as lines of a help text."""
    rows = []
    for flag in flags:
        names = ", ".join(("--" if len(name) > 1 else "-") + name for name in flag.names)
        rows.append((f"{names} {flag.value}".rstrip(), flag.meaning))
    width = max((len(left) for left, _ in rows), default=0)
    return "".join(f"   {left.ljust(width)}  {right}\n" for left, right in rows)
