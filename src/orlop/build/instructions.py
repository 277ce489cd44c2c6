"""What each instruction may say: flags, number of arguments, exec form or shell form, pairs. No I/O.

Everything is checked before the first step runs; variables are put in later, when their values are known.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from orlop.build.configuring import read_healthcheck
from orlop.build.expansion import split_words
from orlop.build.mounts import parse_mount
from orlop.build.parser import DockerfileError, parse_line
from orlop.build.suggestions import hint
from orlop.errors import InvalidParameterError
from orlop.image.changes import json_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orlop.build.parser import Dockerfile, Heredoc, Line

_FLAGS: dict[str, frozenset[str]] = {
    "FROM": frozenset(("platform",)),
    "ADD": frozenset(("chown", "chmod", "checksum", "keep-git-dir", "link", "exclude", "unpack")),
    "COPY": frozenset(("from", "chown", "chmod", "link", "parents", "exclude")),
    "HEALTHCHECK": frozenset(("interval", "timeout", "start-period", "start-interval", "retries")),
    "RUN": frozenset(("mount", "network", "security")),
}
_SWITCHES = frozenset(("keep-git-dir", "link", "parents", "unpack"))
_REPEATED = frozenset(("exclude", "mount"))
_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")
_AT_BLANKS = frozenset(("ADD", "COPY", "EXPOSE", "VOLUME"))
_NO_TRIGGERS = frozenset(("MAINTAINER", "FROM"))
_WITH_PAIRS = frozenset(("ENV", "LABEL", "ARG"))
_STAGE = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)
_NO_FLAGS: Mapping[str, str] = MappingProxyType({})
_NONE_REPEATED: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class Instruction(NamedTuple):
    """One checked instruction; a tuple, since a file may hold ten thousand and more.

    Attributes:
        line: number of its first line.
        name: upper case.
        text: what follows the flags.
        original: as written, continuations joined.
        flags: values by name; those of switches are ``true`` or ``false``.
        repeated: values of the flags that may stand more than once: ``exclude`` and ``mount``.
        words: the exec form's words, or the words split but not expanded (ADD, COPY, FROM, VOLUME and the like).
        is_json: the exec form was written.
        pairs: of ENV, LABEL and ARG, not expanded; an ARG without a value has None.
        heredocs: of RUN, COPY and ADD.
        trigger: of ONBUILD.
    """

    line: int
    name: str
    text: str
    original: str
    flags: Mapping[str, str] = _NO_FLAGS
    words: tuple[str, ...] = ()
    is_json: bool = False
    pairs: tuple[tuple[str, str | None], ...] = ()
    heredocs: tuple[Heredoc, ...] = ()
    trigger: Instruction | None = None
    repeated: Mapping[str, tuple[str, ...]] = _NONE_REPEATED

    def switched(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return self.flags.get(name) == "true"


def read_instructions(dockerfile: Dockerfile) -> tuple[Instruction, ...]:
    """Check every line. Raises DockerfileError in Docker's words."""
    return tuple(read_instruction(line, escape=dockerfile.escape) for line in dockerfile.lines)


def read_trigger(text: str) -> Instruction:
    """Read a trigger that an image carries (``OnBuild``). Raises DockerfileError."""
    return _read_trigger(parse_line(text, number=1), "\\")


def _read_trigger(line: Line, escape: str) -> Instruction:
    if line.name in _NO_TRIGGERS:
        raise DockerfileError(line.number, f"{line.name} isn't allowed as an ONBUILD trigger")
    return read_instruction(line, escape=escape)


def read_instruction(line: Line, *, escape: str = "\\") -> Instruction:
    """Check one line. Raises DockerfileError."""
    number, name, _, flags, text, original, heredocs, _, inner = line
    values, repeated = _read_flags(line) if flags else (_NO_FLAGS, _NONE_REPEATED)
    words: tuple[str, ...] = ()
    exec_form: tuple[str, ...] | None = None
    pairs: tuple[tuple[str, str | None], ...] = ()
    trigger = None
    if name in _WITH_PAIRS:
        pairs = tuple(_pairs(line, escape))
    elif name == "ONBUILD":
        if inner is None:
            raise DockerfileError(number, "ONBUILD requires at least one argument")
        trigger = _read_trigger(inner, escape)
    elif text.isascii() and text.isalnum():
        words = (text,)  # as most names of stages and users are
    else:
        exec_form = json_words(text)
        if exec_form is not None:
            words = exec_form
        else:  # quotes hold paths and ports together in the exec form only, as in Docker
            words = tuple(text.split() if name in _AT_BLANKS else split_words(text, escape=escape))
    made = Instruction(
        number, name, text, original, values, words, exec_form is not None, pairs, heredocs, trigger, repeated
    )
    check = _CHECKS.get(name)
    if check is not None:
        check(made)
    return made


def _read_flags(line: Line) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    known = _FLAGS.get(line.name, frozenset())
    found: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for flag in line.flags:
        name, equals, value = flag[2:].partition("=")
        if name not in known:
            raise DockerfileError(line.number, f"unknown flag: --{name[:80]}{hint(name, known)}")
        if name in found:
            raise DockerfileError(line.number, f"duplicate flag specified: {name}")
        if name in _SWITCHES:
            value = value.lower() if equals else "true"
            if value not in ("true", "false"):
                raise DockerfileError(line.number, f"expecting boolean value for flag {name}, not: {value[:40]}")
        if not value and equals and name not in _REPEATED:
            continue  # as good as not there
        if not value:
            raise DockerfileError(line.number, f"missing a value on flag: {name}")
        if name in _REPEATED:
            repeated.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found, {name: tuple(values) for name, values in repeated.items()}


def _pairs(line: Line, escape: str) -> list[tuple[str, str | None]]:
    words = split_words(line.text, escape=escape)
    if not words:
        raise DockerfileError(line.number, f"{line.name} requires at least one argument")
    if line.name != "ARG" and "=" not in words[0]:
        rest = line.text[len(words[0]) :].strip()
        if not rest:
            raise DockerfileError(line.number, f"{line.name} must have two arguments")
        return [(words[0], rest)]
    found: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and line.name != "ARG":
            raise DockerfileError(
                line.number, f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value"
            )
        if not name:
            raise DockerfileError(line.number, f"{line.name} names can not be blank")
        found.append((name, value if equals else None))
    return found


def _check_some(made: Instruction) -> None:
    if not made.words:
        raise DockerfileError(made.line, f"{made.name} requires at least one argument")


def _check_text(made: Instruction) -> None:
    if not made.text:
        raise DockerfileError(made.line, f"{made.name} requires exactly one argument")


def _check_one(made: Instruction) -> None:
    if len(made.words) != 1:
        raise DockerfileError(made.line, f"{made.name} requires exactly one argument")


def _check_health(made: Instruction) -> None:
    _check_some(made)
    try:
        read_healthcheck(made)
    except InvalidParameterError as error:
        raise DockerfileError(made.line, f"{error}: {made.original[:80]}") from None


def _check_shell(made: Instruction) -> None:
    if not made.is_json:
        raise DockerfileError(made.line, f"SHELL requires the arguments to be in JSON form: {made.text[:80]}")
    _check_some(made)


def _check_copy(made: Instruction) -> None:
    count = len(made.words)
    if count < 2:
        tail = "no arguments were provided" if count == 0 else "only one was provided"
        message = f"{made.name} requires at least two arguments, but {tail}. Destination could not be determined"
        raise DockerfileError(made.line, message)
    if made.name == "COPY" and "$" in made.flags.get("from", ""):
        why = "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope"
        raise DockerfileError(made.line, f"{why} as a workaround")


def _check_run(made: Instruction) -> None:
    _check_some(made)
    if not (made.flags or made.repeated):
        return
    for name, known in (("network", _NETWORKS), ("security", _SECURITIES)):
        value = made.flags.get(name, known[0])
        if value not in known:  # unknown is refused: threats.md C10
            raise DockerfileError(made.line, f'invalid {name} mode "{value[:40]}", expected one of {", ".join(known)}')
    try:
        for text in made.repeated.get("mount", ()):
            parse_mount(text)
    except InvalidParameterError as error:
        raise DockerfileError(made.line, f"{error}: {made.original[:80]}") from None


def _check_from(made: Instruction) -> None:
    words = made.words
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise DockerfileError(made.line, "FROM requires either one or three arguments")
    if len(words) == 3 and _STAGE.fullmatch(words[2].lower()) is None:
        message = f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols'
        raise DockerfileError(made.line, message)


_CHECKS: Mapping[str, Callable[[Instruction], None]] = {
    "ADD": _check_copy,
    "COPY": _check_copy,
    "EXPOSE": _check_some,
    "FROM": _check_from,
    "HEALTHCHECK": _check_health,
    "MAINTAINER": _check_text,
    "RUN": _check_run,
    "SHELL": _check_shell,
    "STOPSIGNAL": _check_one,
    "USER": _check_one,
    "VOLUME": _check_some,
    "WORKDIR": _check_text,
}
