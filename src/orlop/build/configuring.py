"""Instructions that change an image's configuration and nothing else; and the words that the history has for them."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.build.expansion import expand, expand_words
from orlop.errors import InvalidParameterError
from orlop.image.changes import check_signal, json_words, parse_duration
from orlop.spec.image import ContainerDefaults, Healthcheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from orlop.build.instructions import Instruction

DEFAULT_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([a-zA-Z]+))?", re.ASCII)
_DURATIONS = ("interval", "timeout", "start-period", "start-interval")

Changed = tuple[ContainerDefaults, str]


class Words:
    """Expands an instruction's words with the variables of its place."""

    def __init__(self, variables: Mapping[str, str], escape: str = "\\") -> None:
        self.variables = variables
        self._escape = escape

    def one(self, text: str) -> str:
        """Expand one word. Raises InvalidParameterError, which names it."""
        try:
            return expand(text, self.variables, escape=self._escape)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"failed to process {json.dumps(text[:200])}: {error}") from None

    def many(self, text: str) -> list[str]:
        """Expand and split. Raises InvalidParameterError, which names the text."""
        try:
            return expand_words(text, self.variables, escape=self._escape)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"failed to process {json.dumps(text[:200])}: {error}") from None


def configure(config: ContainerDefaults, item: Instruction, words: Words, *, cmd_set: bool = False) -> Changed:
    """Apply an instruction.

    Args:
        config: what the image says so far.
        item: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER or VOLUME.
        words: expands.
        cmd_set: CMD stood in this Dockerfile before, and stays when ENTRYPOINT changes.

    Returns:
        The new configuration, and the instruction as the history has it.

    Raises:
        InvalidParameterError: with Docker's words.
    """
    if item.name == "ENTRYPOINT":
        command = command_of(config, item) or None
        cmd = config.cmd if cmd_set else None
        return replace(config, entrypoint=command, cmd=cmd), f"ENTRYPOINT {_quoted_list(command or ())}"
    return _APPLY[item.name](config, item, words)


def command_of(config: ContainerDefaults, item: Instruction) -> tuple[str, ...]:
    """Return the words to execute: those of the exec form, or the shell with the text."""
    if item.is_json:
        return item.words
    return (*(config.shell or DEFAULT_SHELL), item.text) if item.text else ()


def set_environment(env: Sequence[str], variables: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the environment with variables set in their old places, or at the end."""
    found = list(env)
    places: dict[str, int] = {}
    for at, entry in enumerate(found):
        places.setdefault(entry.partition("=")[0], at)
    for name, value in variables:
        at = places.setdefault(name, len(found))
        found[at : at + 1] = [f"{name}={value}"]
    return tuple(found)


def _cmd(config: ContainerDefaults, item: Instruction, _: Words) -> Changed:
    command = command_of(config, item)
    if not (item.is_json or item.text):
        command = config.shell or DEFAULT_SHELL  # of nothing, as in Docker
    return replace(config, cmd=command or None), f"CMD {_quoted_list(command)}"


def _env(config: ContainerDefaults, item: Instruction, words: Words) -> Changed:
    pairs = _expanded(item, words)
    told = [f"{name}={value}" for name, value in pairs]
    return replace(config, env=set_environment(config.env or (), pairs)), " ".join(("ENV", *told))


def _label(config: ContainerDefaults, item: Instruction, words: Words) -> Changed:
    pairs = _expanded(item, words)
    told = [f"{name}={value}" for name, value in pairs]
    return replace(config, labels={**(config.labels or {}), **dict(pairs)}), " ".join(("LABEL", *told))


def _expanded(item: Instruction, words: Words) -> list[tuple[str, str]]:
    pairs = [(words.one(name), words.one(value or "")) for name, value in item.pairs]
    if not all(name for name, _ in pairs):
        raise InvalidParameterError(f"{item.name} names can not be blank")
    return pairs


def _expose(config: ContainerDefaults, item: Instruction, words: Words) -> Changed:
    told: list[str] = []
    ranges: dict[str, list[tuple[int, int]]] = {}
    for word in (port for raw in sorted(item.words) for port in words.many(raw)):
        match = _PORT.fullmatch(word)
        low = int(match[1]) if match else 0
        high = int(match[2] or low) if match else -1
        protocol = ((match[3] if match else None) or "tcp").lower()
        if not low <= high <= 65535:
            raise InvalidParameterError(f"invalid containerPort: {word}")
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidParameterError(f"invalid proto: {protocol}")
        told.append(word)
        ranges.setdefault(protocol, []).append((low, high))
    ports = set(config.exposed_ports or ())
    for protocol, found in ranges.items():
        first = 0  # what overlaps is not gone through again: thousands of large ranges fit into one instruction
        for low, high in sorted(found):
            ports.update(f"{port}/{protocol}" for port in range(max(low, first), high + 1))
            first = max(first, high + 1)
    return replace(config, exposed_ports=tuple(sorted(ports))), " ".join(("EXPOSE", *told))


def _volume(config: ContainerDefaults, item: Instruction, words: Words) -> Changed:
    paths = [words.one(word).strip() for word in item.words]
    if not all(paths):
        raise InvalidParameterError("VOLUME specified can not be an empty string")
    return replace(config, volumes=tuple(sorted({*(config.volumes or ()), *paths}))), f"VOLUME [{' '.join(paths)}]"


def _user(config: ContainerDefaults, item: Instruction, words: Words) -> Changed:
    user = words.one(item.text)
    return replace(config, user=user), f"USER {user}"


def working_directory(config: ContainerDefaults, item: Instruction, words: Words) -> str:
    """Return the absolute path that WORKDIR means. Raises InvalidParameterError."""
    path = words.one(item.text)
    if not path:
        raise InvalidParameterError("cannot normalize nothing")
    return absolute(config.working_dir, path)


def absolute(directory: str, path: str) -> str:
    """Join and clean; the result begins with one slash and has none at its end."""
    return "/" + posixpath.normpath(posixpath.join("/", directory, path)).lstrip("/")


def _stop_signal(config: ContainerDefaults, item: Instruction, words: Words) -> Changed:
    signal = words.one(item.text)
    check_signal(signal)
    return replace(config, stop_signal=signal), f"STOPSIGNAL {signal}"


def _shell(config: ContainerDefaults, item: Instruction, _: Words) -> Changed:
    return replace(config, shell=item.words), f"SHELL [{' '.join(item.words)}]"


def _on_build(config: ContainerDefaults, item: Instruction, _: Words) -> Changed:
    heredocs = "".join(f"\n{doc.content}{doc.name}" for doc in item.trigger.heredocs) if item.trigger else ""
    trigger = item.trigger.original if item.trigger else item.text
    return replace(config, on_build=(*(config.on_build or ()), trigger + heredocs)), f"ONBUILD {trigger}"


def _healthcheck(config: ContainerDefaults, item: Instruction, _: Words) -> Changed:
    return _checked(config, read_healthcheck(item))


def read_healthcheck(item: Instruction) -> Healthcheck:
    """Read HEALTHCHECK, in which nothing is expanded. Raises InvalidParameterError."""
    kind, _sep, rest = item.text.partition(" ")
    rest = rest.strip()
    if kind.upper() == "NONE":
        if rest or item.flags:
            raise InvalidParameterError("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(test=("NONE",))
    if kind.upper() != "CMD":
        raise InvalidParameterError(f"unknown type {json.dumps(kind)} in HEALTHCHECK (try CMD)")
    words = json_words(rest)
    test = ("CMD", *words) if words is not None else ("CMD-SHELL", rest)
    if words == () or test == ("CMD-SHELL", ""):
        raise InvalidParameterError("missing command after HEALTHCHECK CMD")
    retries = item.flags.get("retries", "0")
    if not (retries.isascii() and retries.isdigit() and len(retries) < 10):
        raise InvalidParameterError(f'strconv.ParseInt: parsing "{retries}": invalid syntax')
    numbers = [parse_duration(item.flags.get(name, "0s")) for name in _DURATIONS]
    for name, number in zip(_DURATIONS, numbers, strict=True):
        if 0 < number < 1_000_000:
            raise InvalidParameterError(f"Interval {json.dumps(name)} cannot be less than 1ms")
    return Healthcheck(
        test,
        interval=numbers[0],
        timeout=numbers[1],
        start_period=numbers[2],
        start_interval=numbers[3],
        retries=int(retries),
    )


def _checked(config: ContainerDefaults, check: Healthcheck) -> Changed:
    """Put a check in; numbers that it leaves open stay as they were (so does dockerd, through its container)."""
    old = config.healthcheck or Healthcheck(())
    merged = Healthcheck(
        check.test,
        interval=check.interval or old.interval,
        timeout=check.timeout or old.timeout,
        start_period=check.start_period or old.start_period,
        start_interval=check.start_interval or old.start_interval,
        retries=check.retries or old.retries,
    )
    return replace(config, healthcheck=merged), _told_health(check)


def _told_health(check: Healthcheck) -> str:
    """Write the check as Go's ``%q`` of dockerd's structure; durations as ``30s``."""
    numbers = (check.interval, check.timeout, check.start_period, check.start_interval)
    told = " ".join(f'"{_go_duration(number)}"' for number in numbers)
    retries = f"'{_go_character(check.retries)}'"
    return f"HEALTHCHECK &{{{_quoted_list(check.test)} {told} {retries}}}"


def _go_character(code: int) -> str:
    """Write a number as Go's ``%q`` writes a rune, without the quotes; for those that are none, U+FFFD."""
    if not 0 <= code < 0x110000 or 0xD800 <= code < 0xE000:
        code = 0xFFFD
    named = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 39: "'", 92: "\\"}
    if code in named:
        return f"\\{named[code]}"
    if chr(code).isprintable():
        return chr(code)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _go_duration(nanoseconds: int) -> str:
    """Write a duration as Go's time package: ``1m0s``, ``1.5s``, ``500ms``."""
    if 0 < nanoseconds < 10**9:
        return f"{nanoseconds / 10**6:g}ms"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 10**9:.9f}".rstrip("0").rstrip(".")
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{seconds}s"


def _quoted_list(words: Sequence[str]) -> str:
    return f"[{' '.join(json.dumps(word, ensure_ascii=False) for word in words)}]"


_APPLY: dict[str, Callable[[ContainerDefaults, Instruction, Words], Changed]] = {
    "CMD": _cmd,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
}
