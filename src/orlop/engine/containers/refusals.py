"""What of Docker's create request this version does not carry out: refused by name, never ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.containers.devices import device_rule
from orlop.errors import ConflictError, InvalidParameterError, UnsupportedError

if TYPE_CHECKING:
    from orlop.spec.docker.containers import ContainerConfig, HostConfig

RUNTIMES = frozenset({"", "orlop", "runc", "io.containerd.runc.v2"})


def refuse_unsupported(config: ContainerConfig, host: HostConfig) -> None:
    """Check for settings that would have to be ignored.

    Raises:
        UnsupportedError: names the setting.
        InvalidParameterError: a value that Docker refuses as well.
    """
    if host.runtime not in RUNTIMES:
        raise InvalidParameterError(f"unknown or invalid runtime name: {host.runtime}")
    if host.isolation not in {"", "default"}:
        raise InvalidParameterError(f"invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    if host.userns_mode not in {"", "host"}:
        raise UnsupportedError(f"user namespace mode is not supported: {host.userns_mode}")
    refused: dict[str, object] = {
        "cpu realtime period": host.cpu_realtime_period,
        "cpu realtime runtime": host.cpu_realtime_runtime,
        "cpu count": host.cpu_count,
        "cpu percent": host.cpu_percent,
        "io maximum iops": host.io_maximum_i_ops,
        "io maximum bandwidth": host.io_maximum_bandwidth,
        "kernel memory limit": host.kernel_memory,
        "kernel memory TCP limit": host.kernel_memory_tcp,
        "cgroup of another container (Cgroup)": host.cgroup,
    }
    for what, value in refused.items():
        if value:
            raise UnsupportedError(f"not supported by this version of orlop: {what}")
    for request in host.device_requests or []:  # no driver of devices is registered here; the words are dockerd's
        driver, capabilities = request.get("Driver") or "", request.get("Capabilities") or []
        raise UnsupportedError(
            f'could not select device driver "{driver}" with capabilities: {_go_lists(capabilities)}'
        )
    for rule in host.device_cgroup_rules or []:
        device_rule(rule)
    if host.volume_driver not in {"", "local"}:
        raise UnsupportedError(f"volume driver is not supported: {host.volume_driver}")
    _check_namespace_modes(host)
    if config.network_disabled and host.network_mode not in {"", "none", "default"}:
        raise UnsupportedError("NetworkDisabled is not supported with a network mode: use --network none")
    if host.auto_remove and host.restart_policy.name not in {"", "no"}:
        raise InvalidParameterError("can't create 'AutoRemove' container with restart policy")


def _go_lists(value: object) -> str:
    """Return lists as Go's %v shows them: ``[[gpu utility]]``."""
    return f"[{' '.join(map(_go_lists, value))}]" if isinstance(value, list) else str(value)


def _check_namespace_modes(host: HostConfig) -> None:
    if host.network_mode == "container:":
        raise InvalidParameterError("Invalid network mode: invalid container format container:<name|id>")
    if host.uts_mode not in {"", "host"}:
        raise InvalidParameterError(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroupns_mode not in {"", "private", "host"}:
        raise InvalidParameterError(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    pid_mode = host.pid_mode
    if pid_mode not in {"", "host"} and (not pid_mode.startswith("container:") or pid_mode == "container:"):
        raise InvalidParameterError(f"invalid PID mode: {host.pid_mode}")
    if host.ipc_mode not in {"", "private", "host", "shareable", "none"} and not host.ipc_mode.startswith("container:"):
        raise InvalidParameterError(f"invalid IPC mode: {host.ipc_mode}")


def require_host_modes_agree(config: ContainerConfig, host: HostConfig) -> None:
    """Refuse what contradicts the network mode, in dockerd's words (runconfig).

    Raises:
        InvalidParameterError, ConflictError: as Docker.
    """
    mode = host.network_mode
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameterError("conflicting options: hostname and the UTS mode")
    if host.uts_mode == "host" and config.domainname:  # it would be the host's (runc refuses it at the start)
        raise InvalidParameterError("conflicting options: domainname and the UTS mode")
    kind = mode.partition(":")[0]
    if host.links and kind in {"host", "container"}:
        kind = f"{kind} type network{'ing' if kind == 'host' else ''}"
        undefined = "This would result in undefined behavior"
        raise InvalidParameterError(f"conflicting options: {kind} can't be used with links. {undefined}")
    if mode.startswith("container:"):
        if config.hostname:
            raise InvalidParameterError("conflicting options: hostname and the network mode")
        if host.dns:
            raise InvalidParameterError("conflicting options: dns and the network mode")
        if host.extra_hosts:
            raise InvalidParameterError("conflicting options: custom host-to-IP mapping and the network mode")
        if host.port_bindings or host.publish_all_ports:
            raise ConflictError("conflicting options: port publishing and the container type network mode")
        if config.exposed_ports:
            raise InvalidParameterError("conflicting options: port exposing and the container type network mode")
    if config.mac_address and mode in {"host", "none"}:
        raise InvalidParameterError("conflicting options: mac-address and the network mode")
