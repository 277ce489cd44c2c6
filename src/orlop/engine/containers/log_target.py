"""Log drivers and their options."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.launch import LogTarget
from orlop.spec.name_pattern import name_matches
from orlop.spec.truth import parse_bool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.engine.containers.records import Definition
    from orlop.spec.docker.containers import LogConfig

_DOCKER_DRIVERS = frozenset({"awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog", "etwlogs"})
_SIZE = re.compile(r"([0-9]{1,12})([kmg]?)b?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_DELIVERY = frozenset({"mode", "max-buffer-size"})  # of every driver
_OPTIONS = {
    "json-file": frozenset({"max-size", "max-file", "labels", "labels-regex", "env", "env-regex", "tag", "compress"}),
    "local": frozenset({"max-size", "max-file", "compress"}),
}
_UNKNOWN = {
    "json-file": "unknown log opt '{}' for json-file log driver",
    "local": "unknown log opt '{}' for log driver local",
}
# bytes after which a file is rotated, and how many are kept: Docker's for local, ours for json-file
_DEFAULTS = {"json-file": (10_000_000, 3), "local": (20_000_000, 5)}
_FIELD = re.compile(r"\{\{-? *\.([A-Za-z]+) *-?\}\}", re.ASCII)


def check_log_config(log: LogConfig) -> None:
    """Check driver and options.

    Raises:
        InvalidParameterError: unknown, in Docker's words.
        UnsupportedError: a driver or option of Docker's that this version does not have.
    """
    if log.type == "none":
        return
    if log.type not in _OPTIONS:
        if log.type in _DOCKER_DRIVERS:
            raise UnsupportedError(f"logger: log driver '{log.type}' is not supported by this version of orlop")
        raise InvalidParameterError(f'error looking up logging plugin {log.type}: plugin "{log.type}" not found')
    options = log.config or {}
    _check_delivery(options)
    for name, value in options.items():
        if name not in _OPTIONS[log.type] | _DELIVERY:
            raise InvalidParameterError(_UNKNOWN[log.type].format(name))
        if name == "tag":
            _tag(value, dict.fromkeys(_TAG_FIELDS, ""))
    _check_compression(log.type, options)


def _check_delivery(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "blocking")
    if mode == "non-blocking":
        raise UnsupportedError("log delivery mode is not supported by this version of orlop: non-blocking")
    if mode not in {"", "blocking"}:
        raise InvalidParameterError(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        raise InvalidParameterError("logger: max-buffer-size option is only supported with 'mode=non-blocking'")


def _sizes(kind: str, options: Mapping[str, str]) -> tuple[int, int]:
    size, count = _DEFAULTS[kind]
    text = options.get("max-size", "")
    if text == "-1":
        size = 0
    elif text:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise InvalidParameterError(f"invalid size: '{text}'")
        size = int(match[1]) * _UNITS[match[2].lower()]
        if size <= 0:
            raise InvalidParameterError("max-size should be a positive number")
    text = options.get("max-file", "")
    if text:
        if not text.isascii() or not text.isdigit() or len(text) > 6:
            raise InvalidParameterError(f'strconv.Atoi: parsing "{text}": invalid syntax')
        count = int(text)
        if count < 1:
            raise InvalidParameterError("max-file cannot be less than 1")
    return size, count


def _check_compression(kind: str, options: Mapping[str, str]) -> None:
    size, count = _sizes(kind, options)
    try:
        wanted = _compresses(kind, options)
    except ValueError as error:
        place = "error reading compress log option: " if kind == "local" else ""
        raise InvalidParameterError(f"failed to initialize logging driver: {place}{error}") from None
    reason = ""
    if wanted and kind == "local" and count < 2:
        reason = "compression cannot be enabled when max file count is 1"
    elif wanted and kind != "local" and (count < 2 or size == 0):
        reason = "compress cannot be true when max-file is less than 2 or max-size is not set"
    if reason:
        raise InvalidParameterError(f"failed to initialize logging driver: {reason}")


def _compresses(kind: str, options: Mapping[str, str]) -> bool:
    """Tell whether rotated files are compressed; Docker's ``local`` does it by default. Raises ValueError."""
    return parse_bool(options.get("compress", "true" if kind == "local" else "false"))


def log_path(directory: str, container_id: str, log: LogConfig) -> str:
    """Return the current log file's path; json-file's is public, local's is the engine's own business, as in Docker."""
    return f"{directory}/local.log" if log.type == "local" else f"{directory}/{container_id}-json.log"


def log_target(definition: Definition, *, path: str) -> LogTarget | None:
    """Return what the shim is told; None when nothing is to be logged."""
    config, log = definition.config, definition.host.log_config
    if log.type == "none":
        return None
    options = log.config or {}
    size, files = _sizes(log.type, options)
    environment = dict(item.partition("=")[::2] for item in config.env or [])
    attributes = {**_chosen(config.labels or {}, options, "labels"), **_chosen(environment, options, "env")}
    if options.get("tag"):
        attributes["tag"] = _tag(options["tag"], _tag_fields(definition))
    return LogTarget(path, size, files, attributes or None, _compresses(log.type, options))


def _chosen(values: Mapping[str, str], options: Mapping[str, str], option: str) -> dict[str, str]:
    """Return the labels, or variables, that ``labels`` names and ``labels-regex`` matches."""
    names = set(filter(None, options.get(option, "").split(",")))
    pattern = options.get(f"{option}-regex", "")
    return {name: value for name, value in values.items() if name in names or (pattern and name_matches(pattern, name))}


def _tag_fields(definition: Definition) -> dict[str, str]:
    """Return what a tag may name (moby's logger.Info)."""
    image = definition.image_id
    values = (
        *(definition.id[:12], definition.id, definition.name),
        *(image.removeprefix("sha256:")[:12], image, definition.image_name),
        *(" ".join(definition.arguments), os.uname().nodename, "docker"),
    )
    return dict(zip(_TAG_FIELDS, values, strict=True))


_TAG_FIELDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "Command", "Hostname", "DaemonName")


def _tag(template: str, fields: Mapping[str, str]) -> str:
    """Fill the fields in. Raises UnsupportedError: there is more to the template."""
    for name in _FIELD.findall(template):
        if name not in fields:
            raise InvalidParameterError(f"can't evaluate field {name} in the log option tag: {template}")
    if "{{" in _FIELD.sub("", template):
        raise UnsupportedError(f"the log option tag takes fields only in this version of orlop: {template}")
    return _FIELD.sub(lambda match: fields[match[1]], template)
