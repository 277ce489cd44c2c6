"""Docker's container documents that clients send: ``POST /containers/create`` and its parts (API v1.50).

The structs keep Docker's order and its difference between ``null`` and ``[]``, because ``inspect`` gives a
HostConfig back as it was sent. :func:`decode_create` is the only way in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import msgspec

from orlop.errors import InvalidParameterError
from orlop.spec.docker.go_values import go_values, require_int64, spelled

if TYPE_CHECKING:
    from orlop.spec.json import JsonObject, JsonValue


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A part of the API's JSON, spelled in Docker's PascalCase; unknown members are ignored, as Docker does."""


class HealthConfig(Document, frozen=True, omit_defaults=True):
    """A health check; durations in nanoseconds, 0 is the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class LogConfig(Document, frozen=True):
    """Log driver and its options."""

    type: str = ""
    config: dict[str, str] | None = None


class PortBindingDocument(Document, frozen=True):
    """Where a port is published."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Document, frozen=True):
    """When the engine starts the container again."""

    name: str = ""
    maximum_retry_count: int = 0


class Ulimit(Document, frozen=True):
    """One resource limit."""

    name: str
    hard: int
    soft: int


class DeviceMapping(Document, frozen=True):
    """``--device``."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = ""


class WeightDevice(Document, frozen=True):
    """Relative block weight of one device."""

    path: str
    weight: int


class ThrottleDevice(Document, frozen=True):
    """Rate limit of one device."""

    path: str
    rate: Annotated[int, msgspec.Meta(ge=0)]


class BindOptions(Document, frozen=True, omit_defaults=True):
    """``--mount type=bind`` options."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Document, frozen=True, omit_defaults=True):
    """Volume driver of a mount."""

    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Document, frozen=True, omit_defaults=True):
    """``--mount type=volume`` options."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Document, frozen=True, omit_defaults=True):
    """``--mount type=tmpfs`` options: ``size_bytes``, ``mode`` as the file mode's number."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class ImageOptions(Document, frozen=True, omit_defaults=True):
    """``--mount type=image`` options, since API 1.48."""

    subpath: str = ""


class MountDocument(Document, frozen=True, omit_defaults=True):
    """One ``--mount``."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None
    cluster_options: dict[str, object] | None = None


class ContainerConfig(Document, frozen=True):
    """What does not depend on the host: Docker's ``Config``."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, object]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class HostConfig(Document, frozen=True):
    """What depends on the host: Docker's ``HostConfig``."""

    binds: list[str] | None = None
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBindingDocument] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_i_ops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_i_ops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[dict[str, object]] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = msgspec.field(name="KernelMemoryTCP", default=0)
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_i_ops: int = msgspec.field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = msgspec.field(name="IOMaximumBandwidth", default=0)
    mounts: list[MountDocument] | None = None
    init: bool | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None


class IpamConfig(Document, frozen=True):
    """Addresses asked for on a network."""

    i_pv4_address: str = msgspec.field(name="IPv4Address", default="")
    i_pv6_address: str = msgspec.field(name="IPv6Address", default="")
    link_local_i_ps: list[str] | None = msgspec.field(name="LinkLocalIPs", default=None)


class EndpointConfig(Document, frozen=True):
    """What the client asks of one network; members that only the engine fills are ignored."""

    ipam_config: IpamConfig | None = msgspec.field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0


class NetworkingConfig(Document, frozen=True):
    """The networks to join."""

    endpoints_config: dict[str, EndpointConfig | None] | None = None


class ContainerCreate(Document, frozen=True):
    """A decoded create request."""

    config: ContainerConfig
    host_config: HostConfig
    networking_config: NetworkingConfig


class ContainerUpdate(Document, frozen=True):
    """Body of ``POST /containers/{id}/update``; None leaves a value as it is.

    Attributes:
        annotations: orlop's own: those that limit bandwidth can be changed.
    """

    cpu_shares: int | None = None
    memory: int | None = None
    nano_cpus: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    blkio_weight: int | None = None
    pids_limit: int | None = None
    restart_policy: RestartPolicy | None = None
    annotations: dict[str, str] | None = None


class ExecCreate(Document, frozen=True):
    """Body of ``POST /containers/{id}/exec``."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


class ExecStart(Document, frozen=True):
    """Body of ``POST /exec/{id}/start``."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


_Model = TypeVar("_Model", bound=Document)
_PARTS = ("HostConfig", "NetworkingConfig")
# Go decodes a JSON string into these lists of one word (moby's strslice).
_WORD_LISTS = ("Cmd", "Entrypoint", "Shell")
_HOST_WORD_LISTS = ("CapAdd", "CapDrop")


def decode_create(body: JsonObject) -> ContainerCreate:
    """Turn a create body into structs; ``null`` is the member's zero value, as in Go.

    Raises:
        InvalidParameterError: a member of another type, or a lone surrogate in a string.
    """
    body = spelled(body, ContainerConfig, *_PARTS)
    config = {name: value for name, value in body.items() if value is not None and name not in _PARTS}
    for name in _WORD_LISTS:
        if isinstance(config.get(name), str):
            config[name] = [config[name]]
    host = spelled(_without_nulls(body.get("HostConfig"), "HostConfig"), HostConfig)
    for name in _HOST_WORD_LISTS:
        if isinstance(host.get(name), str):
            host[name] = [host[name]]
    networking = _without_nulls(body.get("NetworkingConfig"), "NetworkingConfig")
    endpoints = networking.get("EndpointsConfig")
    if isinstance(endpoints, dict):
        networking["EndpointsConfig"] = {
            name: _without_nulls(value, name) for name, value in endpoints.items() if value is not None
        }
    return convert({"Config": config, "HostConfig": host, "NetworkingConfig": networking}, ContainerCreate)


def decode(body: JsonObject, model: type[_Model]) -> _Model:
    """Turn a flat body into ``model``; ``null`` members take their default. Raises InvalidParameterError."""
    plain = {name: value for name, value in spelled(body, model).items() if value is not None}
    if isinstance(plain.get("Cmd"), str):
        plain["Cmd"] = [plain["Cmd"]]
    return convert(plain, model)


def convert(value: object, model: type[_Model]) -> _Model:
    """Convert plain JSON to a struct. Raises InvalidParameterError in one line."""
    require_int64(value)
    try:
        try:
            return msgspec.convert(value, model)
        except msgspec.ValidationError:  # perhaps because of a null
            return msgspec.convert(go_values(value, model), model)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise InvalidParameterError(f"invalid JSON: {error}") from None


def _without_nulls(value: JsonValue, name: str) -> dict[str, JsonValue]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParameterError(f"invalid JSON: {name} is not an object")
    return {key: item for key, item in value.items() if item is not None}


def document_of(struct: Document) -> JsonObject:
    """Return the JSON object of a struct, under Docker's names."""
    return cast("JsonObject", msgspec.to_builtins(struct))
