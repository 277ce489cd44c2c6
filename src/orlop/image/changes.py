"""``--change`` of import and commit: Dockerfile instructions that alter an image's configuration.

Only the instructions that Docker allows there; messages are Docker's. Words are split as Docker's shell lexer does
it: quotes, backslash, ``$NAME`` and ``${NAME}`` from the environment so far.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.image import ContainerDefaults, Healthcheck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Valid in JSON, but no text: Go's decoder, which made Docker's images, replaces them as well.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ALLOWED = frozenset(
    (
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ),
)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_DURATION_PART = re.compile(r"([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(ns|us|µs|ms|s|m|h)")
_LONGEST_DURATION = 40
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([a-zA-Z]+))?", re.ASCII)
_SHELL = ("/bin/sh", "-c")
_SIGNALS = 64


def apply_changes(config: ContainerDefaults, changes: Sequence[str]) -> ContainerDefaults:
    """Apply instructions in order; one string may hold several lines.

    Raises:
        InvalidParameterError: with Docker's words; nothing was applied.
    """
    lines = [line.strip() for change in changes for line in change.split("\n")]
    own_command = False
    for line in lines:
        if not line or line.startswith("#"):
            continue
        config = _apply(config, line)
        name = line.split(None, 1)[0].upper()
        own_command = own_command or name == "CMD"
        if name == "ENTRYPOINT" and not own_command:  # words for another program mean nothing to this one (dockerd)
            config = replace(config, cmd=None)
    return config


def _apply(config: ContainerDefaults, line: str) -> ContainerDefaults:
    word, _, rest = line.partition(" ")
    name, rest = word.upper(), rest.strip()
    if name not in _ALLOWED:
        raise InvalidParameterError(f"{name} is not a valid change command")
    return _INSTRUCTIONS[name](config, rest)


def json_words(text: str) -> tuple[str, ...] | None:
    """Return the exec form's words; None when the text is the shell form."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        return None
    return tuple(_LONE_SURROGATE.sub("\ufffd", item) for item in value)


def _command(config: ContainerDefaults, text: str) -> tuple[str, ...]:
    words = json_words(text)
    if words is not None:
        return words
    return (*(config.shell or _SHELL), text) if text else ()


def _cmd(config: ContainerDefaults, text: str) -> ContainerDefaults:
    return replace(config, cmd=_command(config, text) or None)


def _entrypoint(config: ContainerDefaults, text: str) -> ContainerDefaults:
    return replace(config, entrypoint=_command(config, text) or None)


def _env(config: ContainerDefaults, text: str) -> ContainerDefaults:
    env = list(config.env or ())
    for name, value in _pairs("ENV", config, text):
        if not name:
            raise InvalidParameterError("ENV names can not be blank")
        entry = f"{name}={value}"
        at = next((index for index, old in enumerate(env) if old.partition("=")[0] == name), None)
        if at is None:
            env.append(entry)
        else:
            env[at] = entry
    return replace(config, env=tuple(env))


def _label(config: ContainerDefaults, text: str) -> ContainerDefaults:
    labels = dict(config.labels or {})
    for name, value in _pairs("LABEL", config, text):
        if not name:
            raise InvalidParameterError("LABEL names can not be blank")
        labels[name] = value
    return replace(config, labels=labels)


def _pairs(instruction: str, config: ContainerDefaults, text: str) -> list[tuple[str, str]]:
    if not text:
        raise InvalidParameterError(f"{instruction} requires at least one argument")
    words = _split(text, raw=True)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value:
            raise InvalidParameterError(f"{instruction} must have two arguments")
        return [(_process(name, config), _process(value.strip(), config))]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameterError(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs.append((_process(name, config), _process(value, config)))
    return pairs


def _expose(config: ContainerDefaults, text: str) -> ContainerDefaults:
    ports = set(config.exposed_ports or ())
    for word in _words("EXPOSE", config, text):
        match = _PORT.fullmatch(word)
        first, last, protocol = match.groups() if match else ("", None, None)
        low = int(first) if first else 0
        high = int(last) if last else low
        if match is None or not low <= high <= 65535:
            raise InvalidParameterError(f"Invalid containerPort: {word.partition('/')[0]}")
        protocol = (protocol or "tcp").lower()
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidParameterError(f"Invalid proto: {protocol}")
        ports.update(f"{port}/{protocol}" for port in range(low, high + 1))
    return replace(config, exposed_ports=tuple(sorted(ports)))


def _volume(config: ContainerDefaults, text: str) -> ContainerDefaults:
    words = json_words(text)
    if words is None:
        words = tuple(_words("VOLUME", config, text))
    if not words:
        raise InvalidParameterError("VOLUME requires at least one argument")
    if not all(word.strip() for word in words):
        raise InvalidParameterError("VOLUME specified can not be an empty string")
    return replace(config, volumes=tuple(sorted({*(config.volumes or ()), *(word.strip() for word in words)})))


def _one(instruction: str, config: ContainerDefaults, text: str) -> str:
    words = _split(text, raw=True)
    if len(words) != 1:
        raise InvalidParameterError(f"{instruction} requires exactly one argument")
    return _process(words[0], config)


def _user(config: ContainerDefaults, text: str) -> ContainerDefaults:
    return replace(config, user=_one("USER", config, text))


def _workdir(config: ContainerDefaults, text: str) -> ContainerDefaults:
    if not text:
        raise InvalidParameterError("WORKDIR requires exactly one argument")
    path = posixpath.normpath(posixpath.join("/", config.working_dir, _process(text, config)))
    return replace(config, working_dir="/" + path.lstrip("/"))


def _stop_signal(config: ContainerDefaults, text: str) -> ContainerDefaults:
    name = _one("STOPSIGNAL", config, text)
    check_signal(name)
    return replace(config, stop_signal=name)


def check_signal(name: str) -> None:
    """Look whether there is such a signal, by name or number. Raises InvalidParameterError."""
    plain = name.upper().removeprefix("SIG")
    known = name.isdigit() and name.isascii() and 0 < int(name) <= _SIGNALS
    if not known and "SIG" + plain not in signal.Signals.__members__ and not re.fullmatch(r"RTM(IN\+|AX-)\d+", plain):
        raise InvalidParameterError(f"invalid signal: {name}")


def _on_build(config: ContainerDefaults, text: str) -> ContainerDefaults:
    trigger = text.partition(" ")[0].upper()
    if not trigger:
        raise InvalidParameterError("ONBUILD requires at least one argument")
    if trigger == "ONBUILD":
        raise InvalidParameterError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidParameterError(f"{trigger} isn't allowed as an ONBUILD trigger")
    return replace(config, on_build=(*(config.on_build or ()), text))


def _healthcheck(config: ContainerDefaults, text: str) -> ContainerDefaults:
    options: dict[str, str] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option[2:].partition("=")
        options[name] = value
        text = text.lstrip()
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip():
            raise InvalidParameterError("HEALTHCHECK NONE takes no arguments")
        return replace(config, healthcheck=Healthcheck(test=("NONE",)))
    if not kind:
        raise InvalidParameterError("HEALTHCHECK requires at least one argument")
    if kind.upper() != "CMD":
        raise InvalidParameterError(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    words = json_words(rest.strip())
    test = ("CMD", *words) if words is not None else ("CMD-SHELL", rest.strip())
    if len(test) < 2 or not test[1]:
        raise InvalidParameterError("Missing command after HEALTHCHECK CMD")
    durations = {key: parse_duration(options.pop(key, "") or "0s") for key in _DURATIONS}
    retries = options.pop("retries", "0")
    if options:
        raise InvalidParameterError(f"unknown flag: {min(options)}")
    if not (retries.isascii() and retries.isdigit()):
        raise InvalidParameterError(f"--retries must be a number: {retries}")
    check = Healthcheck(
        test,
        interval=durations["interval"],
        timeout=durations["timeout"],
        start_period=durations["start-period"],
        start_interval=durations["start-interval"],
        retries=int(retries[:9]),
    )
    return replace(config, healthcheck=check)


_DURATIONS = ("interval", "timeout", "start-period", "start-interval")


def parse_duration(text: str) -> int:
    """Read a Go duration (``1h30m``, ``500ms``) as nanoseconds.

    Raises:
        InvalidParameterError: not one, or negative.
    """
    if text == "0":
        return 0
    parts = _DURATION_PART.findall(text) if len(text) <= _LONGEST_DURATION else []
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidParameterError(f"time: invalid duration {json.dumps(text)}")
    duration = sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    if duration >= 1 << 63:
        raise InvalidParameterError(f"time: invalid duration {json.dumps(text)}")
    return duration


def _words(instruction: str, config: ContainerDefaults, text: str) -> list[str]:
    if not text:
        raise InvalidParameterError(f"{instruction} requires at least one argument")
    return [_process(word, config) for word in _split(text, raw=True)]


def _split(text: str, *, raw: bool) -> list[str]:
    """Split at white space outside quotes; ``raw`` keeps quotes and backslashes for :func:`_process`."""
    words: list[str] = []
    current = ""
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'" and position + 1 < len(text):
            current += text[position : position + 2] if raw else text[position + 1]
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
            current += char
        elif char in "'\"":
            quote = char
            current += char
        elif char.isspace():
            words += [current] if current else []
            current = ""
        else:
            current += char
        position += 1
    return words + ([current] if current else [])


def _process(word: str, config: ContainerDefaults) -> str:
    """Remove quotes and backslashes, and put variables in."""
    env = dict(entry.partition("=")[::2] for entry in config.env or ())
    out = ""
    quote = ""
    position = 0
    while position < len(word):
        char = word[position]
        if quote == "'":
            quote, out = ("", out) if char == "'" else (quote, out + char)
        elif char == "\\" and position + 1 < len(word):
            position += 1
            out += word[position] if not quote or word[position] in '"$\\' else "\\" + word[position]
        elif quote and char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
        elif char == "$" and (match := _VARIABLE.match(word, position)):
            out += env.get(match[1] or match[2], "")
            position = match.end() - 1
        else:
            out += char
        position += 1
    if quote:
        raise InvalidParameterError(
            "unexpected end of statement while looking for matching "
            + ("single-quote" if quote == "'" else "double-quote")
        )
    if "\0" in out:
        raise InvalidParameterError("an argument holds a NUL character")
    return out


_INSTRUCTIONS: dict[str, Callable[[ContainerDefaults, str], ContainerDefaults]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
