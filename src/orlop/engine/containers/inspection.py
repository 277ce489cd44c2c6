"""``GET /containers/{id}/json``: the document that ``docker inspect`` shows, field by field as dockerd 26 fills it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from orlop.engine.containers.links import shown_links
from orlop.engine.containers.log_target import log_path
from orlop.engine.containers.oci_config import apparmor_profile
from orlop.spec.docker.containers import document_of
from orlop.spec.docker.times import rfc3339
from orlop.spec.json import JsonValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.records import Definition, MountPoint
    from orlop.engine.containers.settings import Settings
    from orlop.network.sandbox import Endpoint, Sandbox
    from orlop.spec.docker.containers import EndpointConfig, IpamConfig
    from orlop.spec.json import JsonObject

# Members that Go leaves out when they are empty (omitempty).
_CONFIG_OPTIONAL = (
    *(
        "ExposedPorts",
        "Healthcheck",
        "ArgsEscaped",
        "NetworkDisabled",
        "MacAddress",
        "StopSignal",
        "StopTimeout",
        "Shell",
    ),
)
_HOST_OPTIONAL = (
    *("Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Mounts", "Init", "KernelMemory", "KernelMemoryTCP"),
)


def config_document(definition: Definition) -> JsonObject:
    """Return ``Config``."""
    document = document_of(definition.config)
    main = definition.networks.get(definition.host.network_mode)
    if main is not None and main.mac_address:  # since API 1.44 it belongs to the network, and is shown here as well
        document["MacAddress"] = main.mac_address
    for name in _CONFIG_OPTIONAL:
        value = document[name]
        if value is None or (not value and name != "StopTimeout"):  # a timeout of 0 s is one
            del document[name]
    return document


def host_document(definition: Definition) -> JsonObject:
    """Return ``HostConfig``."""
    document = document_of(definition.host)
    document["ConsoleSize"] = list[JsonValue](definition.host.console_size)
    for name in _HOST_OPTIONAL:
        if not document[name] and not (name == "Init" and document[name] is False):
            del document[name]
    if definition.host.privileged:
        document["MaskedPaths"] = document["ReadonlyPaths"] = None
    document["Links"] = cast("JsonValue", shown_links(definition))
    for name in ("PortBindings",):
        if document[name] is None:
            document[name] = {}
    return document


def state_document(container: Container) -> JsonObject:
    """Return ``State``."""
    state = container.state
    document: JsonObject = {
        "Status": state.status.value,
        "Running": state.running,
        "Paused": state.status.value == "paused",
        "Restarting": container.restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status.value == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_at),
        "FinishedAt": rfc3339(state.finished_at),
    }
    if container.health is not None:
        document["Health"] = container.health.document()
    return document


def mount_documents(mounts: Sequence[MountPoint]) -> list[JsonValue]:
    """Return ``Mounts``: binds, volumes and ``--mount`` tmpfs."""
    result: list[JsonValue] = []
    for point in mounts:
        document: JsonObject = {"Type": point.kind}
        if point.kind == "volume":
            document["Name"] = point.name
        document["Source"] = point.source
        document["Destination"] = point.destination
        if point.kind == "volume":
            document["Driver"] = "local"
        document["Mode"] = point.mode
        document["RW"] = point.writable
        document["Propagation"] = point.propagation if point.kind == "bind" else ""
        result.append(document)
    return result


def open_ports(endpoints: Sequence[Endpoint], definition: Definition) -> list[str]:
    """Return the exposed ports that could be published: there is a bridge that leads out (as dockerd)."""
    out = any(endpoint.driver == "bridge" and endpoint.leads_out() for endpoint in endpoints)
    return sorted(definition.config.exposed_ports or {}) if out else []


def port_map(endpoints: Sequence[Endpoint], definition: Definition) -> JsonObject:
    """Return ``NetworkSettings.Ports``: exposed ports without binding are null."""
    ports: JsonObject = dict.fromkeys(open_ports(endpoints, definition))
    for endpoint in endpoints:
        for binding in endpoint.ports:
            name = f"{binding.container_port}/{binding.protocol}"
            own = ports.get(name)
            item: JsonObject = {"HostIp": binding.host_ip, "HostPort": str(binding.host_port or "")}
            ports[name] = [*own, item] if isinstance(own, list) else [item]
    return ports


def endpoint_document(wanted: EndpointConfig | None, endpoint: Endpoint | None, *, network_id: str) -> JsonObject:
    """Return one entry of ``Networks``."""
    ipam = wanted.ipam_config if wanted is not None else None
    return {
        "IPAMConfig": cast("JsonValue", None if ipam is None else _chosen_addresses(ipam)),
        "Links": cast("JsonValue", wanted.links if wanted is not None else None),
        "Aliases": cast("JsonValue", wanted.aliases if wanted is not None else None),
        "MacAddress": endpoint.mac if endpoint else wanted.mac_address if wanted is not None else "",
        "NetworkID": endpoint.network_id if endpoint else network_id,
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": endpoint.gateway if endpoint else "",
        "IPAddress": endpoint.address if endpoint else "",
        "IPPrefixLen": endpoint.prefix_length if endpoint else 0,
        "IPv6Gateway": endpoint.gateway6 if endpoint else "",
        "GlobalIPv6Address": endpoint.address6 if endpoint else "",
        "GlobalIPv6PrefixLen": endpoint.prefix_length6 if endpoint else 0,
        "DriverOpts": cast("JsonValue", wanted.driver_opts if wanted is not None else None),
        "DNSNames": list[JsonValue](endpoint.names) if endpoint and endpoint.names else None,
    }


def _chosen_addresses(ipam: IpamConfig) -> JsonObject:
    """Return ``IPAMConfig``, whose empty members Go leaves out."""
    return {name: value for name, value in document_of(ipam).items() if value}


def networks_document(container: Container, sandbox: Sandbox | None, network_ids: dict[str, str]) -> JsonObject:
    """Return ``Networks`` by network name."""
    endpoints = sandbox.endpoints if sandbox is not None and container.alive else ()
    by_name = {endpoint.network_name: endpoint for endpoint in endpoints}
    return {
        name: endpoint_document(wanted, by_name.get(name), network_id=network_ids.get(name, ""))
        for name, wanted in container.definition.networks.items()
    }


def network_document(container: Container, sandbox: Sandbox | None, network_ids: dict[str, str]) -> JsonObject:
    """Return ``NetworkSettings``; the old top-level members show the default bridge."""
    live = sandbox if container.alive else None
    endpoints = live.endpoints if live is not None else ()
    main = next((endpoint for endpoint in endpoints if endpoint.network_name == "bridge"), None)
    return {
        "Bridge": "",
        "SandboxID": live.id if live is not None else "",
        "SandboxKey": "" if live is None or not container.state.pid else f"/proc/{container.state.pid}/ns/net",
        "Ports": port_map(endpoints, container.definition) if live is not None else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": main.id if main else "",
        "Gateway": main.gateway if main else "",
        "GlobalIPv6Address": main.address6 if main else "",
        "GlobalIPv6PrefixLen": main.prefix_length6 if main else 0,
        "IPAddress": main.address if main else "",
        "IPPrefixLen": main.prefix_length if main else 0,
        "IPv6Gateway": main.gateway6 if main else "",
        "MacAddress": main.mac if main else _wanted_mac(container),
        "Networks": networks_document(container, sandbox, network_ids),
    }


def _wanted_mac(container: Container) -> str:
    wanted = container.definition.networks.get("bridge")
    return wanted.mac_address if wanted is not None else ""


def inspect_document(
    container: Container,
    settings: Settings,
    *,
    sandbox: Sandbox | None,
    network_ids: dict[str, str],
    graph: tuple[str, dict[str, str]],
) -> JsonObject:
    """Return the whole document (without sizes)."""
    definition = container.definition
    directory = settings.container_dir(container.id)
    started = container.state.started_at != 0
    logs = definition.host.log_config.type == "json-file"
    driver, data = graph
    return {
        "Id": container.id,
        "Created": rfc3339(definition.created_at),
        "Path": definition.arguments[0],
        "Args": list[JsonValue](definition.arguments[1:]),
        "State": state_document(container),
        "Image": definition.image_id,
        "ResolvConfPath": f"{directory}/resolv.conf" if started else "",
        "HostnamePath": f"{directory}/hostname" if started else "",
        "HostsPath": f"{directory}/hosts" if started else "",
        "LogPath": log_path(directory, container.id, definition.host.log_config) if started and logs else "",
        "Name": f"/{container.name}",
        "RestartCount": container.state.restarts,
        "Driver": driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": apparmor_profile(definition.host, settings.apparmor),
        "ExecIDs": list[JsonValue](container.execs) or None,
        "HostConfig": host_document(definition),
        "GraphDriver": {"Data": dict[str, JsonValue](data) or None, "Name": driver},
        "Mounts": mount_documents([point for point in definition.mounts if not _is_tmpfs_flag(definition, point)]),
        "Config": config_document(definition),
        "NetworkSettings": network_document(container, sandbox, network_ids),
    }


def _is_tmpfs_flag(definition: Definition, point: MountPoint) -> bool:
    # ``--tmpfs`` shows up in HostConfig.Tmpfs only, ``--mount type=tmpfs`` in Mounts.
    return point.kind == "tmpfs" and any(
        target.rstrip("/") == point.destination for target in definition.host.tmpfs or {}
    )
