"""Creating a container: check everything, then intent, layer, files, done. Nothing here waits."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from orlop.engine.containers.endpoint_settings import check_bandwidth, check_endpoint
from orlop.engine.containers.limits import check_limits
from orlop.engine.containers.links import check_links
from orlop.engine.containers.log_target import check_log_config
from orlop.engine.containers.mounts import resolve_mounts
from orlop.engine.containers.oci_config import (
    Surroundings,
    apparmor_profile,
    masked_paths,
    oci_config,
    readonly_paths,
)
from orlop.engine.containers.platforms import require_platform
from orlop.engine.containers.records import Definition
from orlop.engine.containers.refusals import refuse_unsupported, require_host_modes_agree
from orlop.engine.containers.remapping import refuse_with_remapping
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError
from orlop.kernel.rlimit import NUMBERS as RLIMITS
from orlop.runtime.cgroups import normalise_path
from orlop.runtime.cgroups.systemd.scope import SLICE_EXPECTED, is_slice
from orlop.runtime.security.apparmor import require_loaded
from orlop.runtime.security.sysctl import check_sysctls
from orlop.runtime.users import validate_user
from orlop.spec.docker.containers import HealthConfig, LogConfig, RestartPolicy
from orlop.spec.ids import generate_id
from orlop.spec.ports import exposed_requests, parse_bindings, parse_port
from orlop.storage.limits import parse_storage_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.mounts import Volumes
    from orlop.engine.containers.records import MountPoint
    from orlop.engine.containers.settings import Settings
    from orlop.engine.events import Events
    from orlop.image.records import Image
    from orlop.spec.digest import Digest
    from orlop.spec.docker.containers import ContainerConfig, ContainerCreate, EndpointConfig, HostConfig
    from orlop.spec.image import ContainerDefaults, Healthcheck

_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62})", re.ASCII)
_SIGNAL_MAXIMUM = 64
_MILLISECOND = 1_000_000
_RESTART = frozenset({"", "no", "always", "unless-stopped", "on-failure"})
# dockerd's limits and ours against hostile images (threats.md E13)
_MOST_LABELS, _MOST_ENVIRONMENT = 10_000, 10_000


class Images(Protocol):
    """Where images are found."""

    def resolve(self, name: str) -> Image:
        """Find by reference, id or prefix. Raises NotFoundError ``No such image: x:latest``."""


class ContainerLayers(Protocol):
    """Where the writable layer is made."""

    def create_container(self, container_id: str, chain: Digest | None, *, size: int = 0) -> None:
        """Make the layer, of at most ``size`` bytes if that is not 0."""

    def remove_container(self, container_id: str) -> list[str]:
        """Take it away; returns tombstones."""


class NetworkNames(Protocol):
    """Which networks there are."""

    def network(self, name_or_id: str) -> object:
        """Find a network. Raises NotFoundError ``network x not found``."""


class Creator:
    """Carries out ``POST /containers/create``."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        images: Images,
        layers: ContainerLayers,
        volumes: Volumes,
        networks: NetworkNames,
        events: Events,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._images = images
        self._layers = layers
        self._volumes = volumes
        self._networks = networks
        self._events = events

    def create(
        self, request: ContainerCreate, name: str, *, platform: str = "", mounts: Sequence[MountPoint] = ()
    ) -> tuple[Container, list[str]]:
        """Create a container and return it with warnings; undone completely on error.

        ``mounts`` are the engine's own: at their destinations the image's volumes are not made.

        Raises:
            NotFoundError: the image, a network or another container does not exist.
            InvalidParameterError, UnsupportedError, ConflictError: in Docker's words.
        """
        chosen = self._directory.choose_name(name)
        image = self._images.resolve(request.config.image)
        require_platform(platform, request.config.image, image.config)
        container_id = generate_id()
        host = self._complete_host(request)
        host = msgspec.structs.replace(host, links=check_links(host, self._directory))
        config = self._complete_config(request.config, image.config.config, container_id, host=host)
        arguments = (*(config.entrypoint or ()), *(config.cmd or ()))
        if not arguments:
            raise InvalidParameterError("no command specified")
        refuse_unsupported(config, host)
        if self._settings.remapping is not None:
            refuse_with_remapping(host)
        check_bandwidth(host.annotations)
        networks = self._networks_of(host, request.networking_config.endpoints_config or {})
        definition = Definition(
            id=container_id,
            name=chosen,
            created_at=time.time_ns(),
            image_id=str(image.id),
            image_name=request.config.image,
            chain=str(image.chain or ""),
            config=config,
            host=host,
            networks=networks,
            mounts=(),
            arguments=arguments,
        )
        # Whatever the configuration would refuse at the start is refused now.
        path = self._settings.cgroup_path(container_id, host.cgroup_parent)
        if self._settings.systemd_cgroup and host.cgroup_parent and not is_slice(host.cgroup_parent):
            raise InvalidParameterError(SLICE_EXPECTED)
        normalise_path(path, container_id=container_id, systemd=self._settings.systemd_cgroup)
        oci_config(definition, Surroundings(cgroups_path=path))
        require_loaded(apparmor_profile(host, self._settings.apparmor))
        definition = msgspec.structs.replace(definition, mounts=self._mounts(config, host, mounts))
        container = self._make(definition, image.chain)
        self._events.publish("container", "create", container_id, container.attributes())
        return container, self._warnings(host)

    def _mounts(self, config: ContainerConfig, host: HostConfig, own: Sequence[MountPoint]) -> tuple[MountPoint, ...]:
        taken = {point.destination for point in own}
        declared = {path: value for path, value in (config.volumes or {}).items() if path not in taken}
        asked = resolve_mounts(
            msgspec.structs.replace(config, volumes=declared),
            host,
            volumes=self._volumes,
            mounts_of=lambda name: self._directory.get(name).definition.mounts,
            image_id=lambda name: str(self._images.resolve(name).id),
        )
        return tuple(sorted((*asked, *own), key=lambda point: point.destination.split("/"))) if own else asked

    def _make(self, definition: Definition, chain: Digest | None) -> Container:
        container = self._directory.add(definition)
        with contextlib.ExitStack() as undo:
            undo.callback(self._directory.remove, container)
            path = self._settings.container_dir(definition.id)
            os.makedirs(path, mode=0o710)
            undo.callback(os.rmdir, path)
            size = parse_storage_options(definition.host.storage_opt)
            self._layers.create_container(definition.id, chain, size=size)
            undo.callback(self._layers.remove_container, definition.id)
            self._directory.set_ready(container)
            undo.pop_all()
        return container

    def _complete_host(self, request: ContainerCreate) -> HostConfig:
        host = check_limits(request.host_config)
        check_restart_policy(host.restart_policy)
        mode = host.network_mode or "default"
        if request.config.network_disabled:
            mode = "none"
        if mode.startswith("container:"):
            # A missing one is told at start, as dockerd does: clients take a 404 here for a missing image, and pull it.
            with contextlib.suppress(NotFoundError):
                mode = f"container:{self._directory.get(mode.removeprefix('container:')).id}"
        log = host.log_config
        if not log.type:
            log = LogConfig(type=self._settings.log_driver, config={**self._settings.log_options, **(log.config or {})})
        check_log_config(log)
        for limit in host.ulimits or []:
            if f"RLIMIT_{limit.name.upper()}" not in RLIMITS:
                raise InvalidParameterError(f"invalid ulimit type: {limit.name}")
            if limit.soft > limit.hard >= 0:
                raise InvalidParameterError(
                    f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}",
                )
        check_sysctls(host.sysctls or {}, host_network=mode == "host", host_ipc=host.ipc_mode == "host")
        parse_bindings(_bindings(host))
        host = msgspec.structs.replace(
            host,
            network_mode="bridge" if mode == "default" else mode,
            log_config=log,
            restart_policy=RestartPolicy(
                name=host.restart_policy.name or "no",
                maximum_retry_count=host.restart_policy.maximum_retry_count,
            ),
            runtime="runc" if not host.runtime else host.runtime,
            shm_size=host.shm_size or self._settings.default_shm_size,
            ipc_mode=host.ipc_mode or "private",
            cgroupns_mode=host.cgroupns_mode or ("host" if host.privileged else "private"),
            masked_paths=masked_paths(host),
            readonly_paths=readonly_paths(host),
        )
        require_host_modes_agree(request.config, host)
        return host

    def _complete_config(
        self,
        config: ContainerConfig,
        defaults: ContainerDefaults,
        container_id: str,
        *,
        host: HostConfig,
    ) -> ContainerConfig:
        hostname = config.hostname
        if not hostname:
            hostname = os.uname().nodename if host.network_mode == "host" else container_id[:12]
        elif _HOSTNAME.fullmatch(hostname) is None:
            raise InvalidParameterError(f"invalid hostname format: {hostname}")
        merged = merge_image(msgspec.structs.replace(config, hostname=hostname), defaults)
        _check_config(merged)
        return merged

    def _networks_of(
        self,
        host: HostConfig,
        wanted: dict[str, EndpointConfig | None],
    ) -> dict[str, EndpointConfig | None]:
        """Return what the user asked of each network, the main one first.

        An unknown network is told at start, as dockerd does: clients take a 404 here for a missing image and pull.
        """
        mode = host.network_mode
        if mode.startswith("container:"):
            return {}
        named: dict[str, EndpointConfig | None] = {}
        for given, endpoint in wanted.items():
            name = self._network_name(mode if given == "default" else given)
            check_endpoint(name, endpoint)
            named[name] = endpoint
        main = self._network_name(mode)
        if mode in ("host", "none"):
            if len(named.keys() - {main}) > 0:
                raise InvalidParameterError(
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                )
        elif named and main == "bridge" and main not in named:
            return named  # only what was named is joined, whatever the mode says (dockerd)
        return {main: named.pop(main, None), **named}

    def _network_name(self, name_or_id: str) -> str:
        """Return a network's name; what is not known stays as it was written."""
        try:
            return str(getattr(self._networks.network(name_or_id), "name", name_or_id))
        except OrlopError:
            return name_or_id

    def _warnings(self, host: HostConfig) -> list[str]:
        warnings = []
        if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
            warnings.append("Published ports are discarded when using host network mode")
        if host.oom_kill_disable and not host.memory:
            warnings.append(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system"
                " running out of resources."
            )
        return warnings


def _bindings(host: HostConfig) -> dict[str, list[dict[str, str]] | None]:
    return {
        port: [{"HostIp": item.host_ip, "HostPort": item.host_port} for item in items] if items is not None else None
        for port, items in (host.port_bindings or {}).items()
    }


def port_requests(definition: Definition) -> tuple[object, ...]:
    """Return the ports that are to be published at a start."""
    host = definition.host
    requests = parse_bindings(_bindings(host))
    if host.publish_all_ports:
        bound = {f"{request.container_port}/{request.protocol}" for request in requests}
        requests += exposed_requests(port for port in definition.config.exposed_ports or {} if port not in bound)
    return tuple(requests)


def check_restart_policy(policy: RestartPolicy) -> None:
    """Refuse what is no restart policy. Raises InvalidParameterError in dockerd's words."""
    if policy.name not in _RESTART:
        raise InvalidParameterError(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of"
            " 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidParameterError(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameterError("invalid restart policy: maximum retry count cannot be negative")


def merge_image(config: ContainerConfig, image: ContainerDefaults) -> ContainerConfig:
    """Complete what the user left open with what the image says (dockerd's ``merge``)."""
    own = {item.partition("=")[0] for item in config.env or []}
    inherited = [item for item in image.env or () if item.partition("=")[0] not in own]
    env = [*inherited, *(config.env or [])] if image.env or config.env else config.env
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
        volumes=volumes or config.volumes,
        working_dir=config.working_dir or image.working_dir,
        labels={**(image.labels or {}), **(config.labels or {})},
        stop_signal=config.stop_signal or image.stop_signal,
        stop_timeout=config.stop_timeout if config.stop_timeout is not None else image.stop_timeout,
        healthcheck=_merge_health(config.healthcheck, image.healthcheck),
        shell=config.shell or (list(image.shell) if image.shell else None),
    )


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


def _check_config(config: ContainerConfig) -> None:
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


def parse_signal(text: str) -> int:
    """Return a signal's number from ``KILL``, ``SIGKILL``, ``9`` or ``RTMIN+3``.

    Raises:
        InvalidParameterError: ``invalid signal: x``.
    """
    if text.isascii() and text.isdigit() and len(text) < 4:
        number = int(text)
        if not 1 <= number <= _SIGNAL_MAXIMUM:
            raise InvalidParameterError(f"invalid signal: {text}")
        return number
    name = text.upper().removeprefix("SIG")
    match = re.fullmatch(r"(RTMIN|RTMAX)(?:([+-])([0-9]{1,2}))?", name)
    if match is not None:
        start = 34 if match[1] == "RTMIN" else _SIGNAL_MAXIMUM
        number = start + (int(f"{match[2]}{match[3]}") if match[2] else 0)
        if 34 <= number <= _SIGNAL_MAXIMUM:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidParameterError(f"invalid signal: {text}")
    return int(found)
