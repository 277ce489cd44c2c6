"""Creating a container: check everything, then intent, layer, files, done. Nothing here waits."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from orlop.engine.containers.endpoint_settings import (
    check_bandwidth,
    check_bursts,
    check_endpoint,
    check_together,
    with_mac,
)
from orlop.engine.containers.limits import check_limits
from orlop.engine.containers.links import check_links
from orlop.engine.containers.log_target import check_log_config
from orlop.engine.containers.merging import check_config, merge_image
from orlop.engine.containers.mounts import resolve_mounts
from orlop.engine.containers.oci_config import (
    Surroundings,
    apparmor_profile,
    masked_paths,
    oci_config,
    readonly_paths,
)
from orlop.engine.containers.records import Definition
from orlop.engine.containers.refusals import refuse_unsupported, require_host_modes_agree
from orlop.engine.containers.remapping import refuse_with_remapping
from orlop.engine.platforms import require_platform
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError
from orlop.kernel.rlimit import NUMBERS as RLIMITS
from orlop.network.hosts import parse_extra_host
from orlop.network.wishes import check_addresses
from orlop.runtime.cgroups import normalise_path
from orlop.runtime.cgroups.systemd.scope import SLICE_EXPECTED, is_slice
from orlop.runtime.security.apparmor import require_loaded
from orlop.runtime.security.sysctl import check_sysctls
from orlop.spec.docker.containers import LogConfig, RestartPolicy
from orlop.spec.ids import generate_id
from orlop.spec.ports import exposed_requests, parse_bindings
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
    from orlop.network.networks import Network
    from orlop.spec.digest import Digest
    from orlop.spec.docker.containers import ContainerConfig, ContainerCreate, EndpointConfig, HostConfig
    from orlop.spec.image import ContainerDefaults

_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62})", re.ASCII)
_SOME_GATEWAY = "192.0.2.1"  # that of host-gateway is known at the start
_RESTART = frozenset({"", "no", "always", "unless-stopped", "on-failure"})


class Images(Protocol):
    """Where images are found."""

    def resolve(self, name: str) -> Image:
        """Find by reference, id or prefix. Raises NotFoundError ``No such image: x:latest``."""


class ContainerLayers(Protocol):
    """Where the writable layer is made."""

    async def create_container(self, container_id: str, chain: Digest | None, *, size: int = 0) -> None:
        """Make the layer, of at most ``size`` bytes if that is not 0."""

    def remove_container(self, container_id: str) -> list[str]:
        """Take it away; returns tombstones."""


class NetworkNames(Protocol):
    """Which networks there are."""

    def network(self, name_or_id: str) -> Network:
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

    async def create(
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
        check_bandwidth(host.annotations, host.network_mode)
        networks = self._networks_of(host, request.networking_config.endpoints_config or {})
        _, main = self._find_network(host.network_mode)
        if config.mac_address and main in networks:  # until API 1.43 it belonged to the container
            networks[main] = with_mac(main, networks[main], config.mac_address)
        check_bursts(host.annotations, networks)
        check_together(networks)
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
        container = await self._make(definition, image.chain)
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

    async def _make(self, definition: Definition, chain: Digest | None) -> Container:
        container = self._directory.add(definition)
        # it can be found by its name already: who wants to start or remove it waits
        async with container.lock, contextlib.AsyncExitStack() as undo:
            undo.callback(self._directory.remove, container)
            path = self._settings.container_dir(definition.id)
            os.makedirs(path, mode=0o710)
            undo.callback(os.rmdir, path)
            size = parse_storage_options(definition.host.storage_opt)
            await self._layers.create_container(definition.id, chain, size=size)
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
        for text in host.extra_hosts or []:
            parse_extra_host(text, _SOME_GATEWAY)
        self._require_donors(host)
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

    def _require_donors(self, host: HostConfig) -> None:
        """See that the containers are there whose namespaces are to be joined; dockerd tells it with 400."""
        for mode in (host.pid_mode, host.ipc_mode):
            kind, _, name = mode.partition(":")
            if kind == "container" and name:
                try:
                    self._directory.get(name)
                except NotFoundError as error:
                    raise InvalidParameterError(str(error)) from None

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
        check_config(merged)
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
            network, name = self._find_network(mode if given == "default" else given)
            try:
                check_endpoint(name, endpoint)
                if network is not None and endpoint is not None and endpoint.ipam_config is not None:
                    addresses = endpoint.ipam_config
                    check_addresses(network, addresses.i_pv4_address, addresses.i_pv6_address)
            except InvalidParameterError as error:
                raise InvalidParameterError(f"invalid config for network {name}: {error}") from error
            named[name] = endpoint
        _, main = self._find_network(mode)
        if mode in ("host", "none"):
            if len(named.keys() - {main}) > 0:
                raise InvalidParameterError(
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                )
        elif named and main == "bridge" and main not in named:
            return named  # only what was named is joined, whatever the mode says (dockerd)
        return {main: named.pop(main, None), **named}

    def _find_network(self, name_or_id: str) -> tuple[Network | None, str]:
        """Return a network and its name; the name of what is not known stays as it was written."""
        try:
            network = self._networks.network(name_or_id)
        except OrlopError:
            return None, name_or_id
        return network, network.name

    def _warnings(self, host: HostConfig) -> list[str]:
        """Return what dockerd warns of, in its order."""
        warnings = []
        if host.oom_kill_disable and not host.memory:
            warnings.append(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system"
                " running out of resources."
            )
        if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
            warnings.append("Published ports are discarded when using host network mode")
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
