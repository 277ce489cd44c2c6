"""Log drivers and their options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.launch import LogTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.spec.docker.containers import ContainerConfig, LogConfig

_DOCKER_DRIVERS = frozenset(
    {"awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog", "local", "etwlogs"},
)
_SIZE = re.compile(r"([0-9]{1,12})([kmg]?)b?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_OPTIONS = frozenset({"max-size", "max-file", "labels", "labels-regex", "env", "env-regex", "tag", "compress", "mode"})
DEFAULT_SIZE = 10_000_000
DEFAULT_FILES = 3


def check_log_config(log: LogConfig) -> None:
    """Check driver and options.

    Raises:
        InvalidParameterError: unknown, in Docker's words.
        UnsupportedError: a driver or option of Docker's that this version does not have.
    """
    if log.type == "none":
        return
    if log.type != "json-file":
        if log.type in _DOCKER_DRIVERS:
            raise UnsupportedError(f"logger: log driver '{log.type}' is not supported by this version of orlop")
        raise InvalidParameterError(f"logger: no log driver named '{log.type}' is registered")
    for name, value in (log.config or {}).items():
        if name not in _OPTIONS:
            raise InvalidParameterError(f"unknown log opt '{name}' for json-file log driver")
        if name in {"labels-regex", "env-regex", "tag"}:
            raise UnsupportedError(f"log option is not supported by this version of orlop: {name}")
        if name == "compress" and value not in {"", "false", "0"}:
            raise UnsupportedError("log option is not supported by this version of orlop: compress")
        if name == "mode" and value != "blocking":
            raise UnsupportedError(f"log delivery mode is not supported by this version of orlop: {value}")
    options = log.config or {}
    _sizes(options)


def _sizes(options: Mapping[str, str]) -> tuple[int, int]:
    size = DEFAULT_SIZE
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
    count = DEFAULT_FILES
    text = options.get("max-file", "")
    if text:
        if not text.isascii() or not text.isdigit() or len(text) > 6:
            raise InvalidParameterError(f'strconv.Atoi: parsing "{text}": invalid syntax')
        count = int(text)
        if count < 1:
            raise InvalidParameterError("max-file cannot be less than 1")
    return size, count


def log_path(directory: str, container_id: str) -> str:
    """Return the current log file's path."""
    return f"{directory}/{container_id}-json.log"


def log_target(config: ContainerConfig, log: LogConfig, *, path: str) -> LogTarget | None:
    """Return what the shim is told; None when nothing is to be logged."""
    if log.type == "none":
        return None
    options = log.config or {}
    size, files = _sizes(options)
    attributes: dict[str, str] = {}
    labels = config.labels or {}
    for name in filter(None, options.get("labels", "").split(",")):
        if name in labels:
            attributes[name] = labels[name]
    environment = dict(item.partition("=")[::2] for item in config.env or [])
    for name in filter(None, options.get("env", "").split(",")):
        if name in environment:
            attributes[name] = environment[name]
    return LogTarget(path, size, files, attributes or None)
