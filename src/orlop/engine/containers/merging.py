"""A container's own configuration, completed by its image's and checked."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.signals import parse_signal
from orlop.errors import InvalidParameterError
from orlop.runtime.users import validate_user
from orlop.spec.docker.containers import HealthConfig
from orlop.spec.ports import parse_port

if TYPE_CHECKING:
    from orlop.spec.docker.containers import ContainerConfig
    from orlop.spec.image import ContainerDefaults, Healthcheck

_MILLISECOND = 1_000_000
# dockerd's limits and ours against hostile images (threats.md E13)
_MOST_LABELS, _MOST_ENVIRONMENT = 10_000, 10_000


def merge_image(config: ContainerConfig, image: ContainerDefaults) -> ContainerConfig:
    """Complete what the user left open with what the image says (dockerd's ``merge``)."""
    own = {item.partition("=")[0] for item in config.env or []}
    inherited = [item for item in image.env or () if item.partition("=")[0] not in own]
    env = [*inherited, *(config.env or [])] if image.env or config.env else None
    entrypoint, cmd = config.entrypoint, config.cmd
    if entrypoint == [""]:
        # ``--entrypoint ""``: the image's is not wanted.
        entrypoint = None
    elif not entrypoint:
        if not cmd:
            cmd = list(image.cmd) if image.cmd is not None else cmd
        entrypoint = list(image.entrypoint) if image.entrypoint else entrypoint
    if not config.cmd and not config.entrypoint and image.cmd is not None:
        cmd = list(image.cmd)
    exposed = {**{port: {} for port in image.exposed_ports or ()}, **(config.exposed_ports or {})}
    volumes = {**{path: {} for path in image.volumes or ()}, **(config.volumes or {})}
    return msgspec.structs.replace(
        config,
        user=config.user or image.user,
        env=env,
        cmd=cmd,
        entrypoint=entrypoint,
        exposed_ports=exposed or config.exposed_ports,
        volumes=volumes or None,
        working_dir=_clean_directory(config.working_dir or image.working_dir),
        labels={**(image.labels or {}), **(config.labels or {})},
        stop_signal=config.stop_signal or image.stop_signal,
        stop_timeout=config.stop_timeout if config.stop_timeout is not None else image.stop_timeout,
        healthcheck=_merge_health(config.healthcheck, image.healthcheck),
        shell=config.shell or (list(image.shell) if image.shell else None),
    )


def _clean_directory(path: str) -> str:
    """Return a working directory's normal form; what is not absolute is refused later, as it was written."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else path


def _merge_health(own: HealthConfig | None, image: Healthcheck | None) -> HealthConfig | None:
    if image is None:
        return own
    own = own or HealthConfig()
    return HealthConfig(
        test=own.test or list(image.test),
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        retries=own.retries or image.retries,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
    )


def check_config(config: ContainerConfig) -> None:
    """Refuse what no container can have. Raises InvalidParameterError in dockerd's words."""
    validate_user(config.user)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameterError(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if len(config.labels or {}) > _MOST_LABELS or len(config.env or []) > _MOST_ENVIRONMENT:
        raise InvalidParameterError("too many labels or environment variables")
    for item in config.env or []:
        if not item or item.startswith("="):
            raise InvalidParameterError(f"invalid environment variable: {item}")
    for text in (*(config.env or ()), *(config.cmd or ()), *(config.entrypoint or ()), config.working_dir):
        if "\0" in text:
            raise InvalidParameterError("invalid string: it contains a NUL")
    for port in config.exposed_ports or {}:
        parse_port(port)
    health = config.healthcheck
    if health is None:
        return
    if health.test and health.test[0] not in {"NONE", "CMD", "CMD-SHELL"}:
        raise InvalidParameterError(f"unknown type '{health.test[0]}' in healthcheck (try 'CMD')")
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value < 0 or 0 < value < _MILLISECOND:
            raise InvalidParameterError(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameterError("Retries in Healthcheck cannot be negative")
