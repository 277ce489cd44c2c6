"""``GET /containers/json``: which containers, and one summary of each."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from orlop.engine.containers.inspection import mount_documents, networks_document, open_ports
from orlop.errors import InvalidParameterError, OrlopError
from orlop.spec.docker.times import human_duration
from orlop.spec.name_pattern import name_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.image.records import Image
    from orlop.network.sandbox import Sandbox
    from orlop.spec.docker.containers import HostConfig
    from orlop.spec.json import JsonObject, JsonValue

_NANO = 1_000_000_000
_FILTERS = frozenset(
    {
        *("ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network"),
        *("publish", "since", "status", "volume"),
    },
)
_STATUSES = ("paused", "restarting", "running", "dead", "created", "exited", "removing")
_HEALTH = ("starting", "healthy", "unhealthy", "none")


def status_text(container: Container, now_ns: int) -> str:
    """Return Docker's ``Status``: ``Up 2 seconds (healthy)``, ``Exited (0) 3 seconds ago``."""
    state = container.state
    up = human_duration((now_ns - state.started_at) / _NANO)
    ended = human_duration((now_ns - state.finished_at) / _NANO)
    match state.status.value:
        case "created":
            return "Created"
        case "paused":
            return f"Up {up} (Paused)"
        case "restarting":
            return f"Restarting ({state.exit_code}) {ended} ago"
        case "running":
            health = container.health.status if container.health is not None else "none"
            suffix = {"none": "", "starting": " (health: starting)"}.get(health, f" ({health})")
            return f"Up {up}{suffix}"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case _:
            return f"Exited ({state.exit_code}) {ended} ago" if state.finished_at else "Created"


def command_text(arguments: tuple[str, ...]) -> str:
    """Return ``Command``: words joined, those with spaces quoted as dockerd quotes them."""
    first, *rest = arguments
    words = [f"'{word}'" if " " in word or not word else word for word in rest]
    return " ".join([first, *words])


def port_documents(container: Container, sandbox: Sandbox | None) -> list[JsonValue]:
    """Return ``Ports`` of a summary; those of a container that does not run are none."""
    if sandbox is None or not container.alive:
        return []
    result: list[JsonValue] = []
    bound = set()
    for endpoint in sandbox.endpoints:
        for binding in endpoint.ports:
            bound.add(f"{binding.container_port}/{binding.protocol}")
            public: JsonObject = {"PublicPort": binding.host_port} if binding.host_port else {}
            result.append(
                {"IP": binding.host_ip, "PrivatePort": binding.container_port, **public, "Type": binding.protocol}
            )
    for port in open_ports(sandbox.endpoints, container.definition):
        if port not in bound:
            number, _, protocol = port.partition("/")
            result.append({"PrivatePort": int(number.partition("-")[0]), "Type": protocol or "tcp"})
    return result


def summary(container: Container, sandbox: Sandbox | None, network_ids: dict[str, str], *, now_ns: int) -> JsonObject:
    """Return one element of the list."""
    definition = container.definition
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": definition.image_name,
        "ImageID": definition.image_id,
        "Command": command_text(definition.arguments),
        "Created": definition.created_at // _NANO,
        "Ports": port_documents(container, sandbox),
        "Labels": dict[str, "JsonValue"](definition.config.labels or {}),
        "State": container.state.status.value,
        "Status": status_text(container, now_ns),
        "HostConfig": {"NetworkMode": definition.host.network_mode},
        "NetworkSettings": {"Networks": networks_document(container, sandbox, network_ids)},
        "Mounts": mount_documents([point for point in definition.mounts if point.kind != "tmpfs"]),
    }


def shown_image(container: Container, resolve: Callable[[str], Image]) -> str:
    """Return the name that the image was given by, or its id if that is another image's name or nobody's by now."""
    definition = container.definition
    with contextlib.suppress(OrlopError):
        if str(resolve(definition.image_name).id) == definition.image_id:
            return definition.image_name
    return definition.image_id


class Selection:
    """Which containers a list shows; checked when it is made.

    Raises:
        InvalidParameterError: unknown filter or value, in Docker's words.
        NotFoundError: ``before`` or ``since`` name nothing.
    """

    def __init__(self, filters: Mapping[str, list[str]], directory: Directory, image_ids: Mapping[str, str]) -> None:
        for name in filters:
            if name not in _FILTERS:
                raise InvalidParameterError(f"invalid filter '{name}'")
        self._filters = filters
        self._image_ids = image_ids
        _check_values(filters.get("status", ()), _STATUSES, "status")
        _check_values(filters.get("health", ()), _HEALTH, "health")
        self._before = [directory.get(name).definition.created_at for name in filters.get("before", ())]
        self._since = [directory.get(name).definition.created_at for name in filters.get("since", ())]
        self._exited = [_exit_code(text) for text in filters.get("exited", ())]

    @property
    def shows_stopped(self) -> bool:
        """Whether a filter makes stopped containers visible without ``all``."""
        return bool(self._filters.get("status") or self._filters.get("exited"))

    def matches(self, container: Container) -> bool:
        """Whether the container passes every filter; values of one filter are alternatives (labels: all)."""
        definition, state = container.definition, container.state
        checks: dict[str, bool] = {}
        filters = self._filters
        if "status" in filters:
            checks["status"] = state.status.value in filters["status"]
        if "exited" in filters:
            checks["exited"] = state.status.value == "exited" and state.exit_code in self._exited
        if "id" in filters:
            checks["id"] = any(name_matches(value, container.id) for value in filters["id"])
        if "name" in filters:
            names = (container.name, f"/{container.name}")
            checks["name"] = any(name_matches(value, name) for value in filters["name"] for name in names)
        if "label" in filters:
            checks["label"] = all(label_matches(value, definition.config.labels or {}) for value in filters["label"])
        if "ancestor" in filters:
            wanted = {self._image_ids.get(value, value) for value in filters["ancestor"]}
            checks["ancestor"] = definition.image_id in wanted or definition.image_name in wanted
        if "network" in filters:
            checks["network"] = bool(set(filters["network"]) & set(definition.networks))
        if "volume" in filters:
            own = {
                name for point in definition.mounts for name in (point.name, point.destination, point.source) if name
            }
            checks["volume"] = bool(set(filters["volume"]) & own)
        if "health" in filters:
            checks["health"] = (container.health.status if container.health else "none") in filters["health"]
        if "expose" in filters:
            checks["expose"] = _ports_match(filters["expose"], definition.config.exposed_ports or {})
        if "publish" in filters:
            checks["publish"] = _ports_match(filters["publish"], _published(definition.host))
        if self._before:
            checks["before"] = definition.created_at < min(self._before)
        if self._since:
            checks["since"] = definition.created_at > max(self._since)
        if "is-task" in filters:
            checks["is-task"] = "true" not in filters["is-task"]
        return all(checks.values())


def _check_values(values: Iterable[str], allowed: tuple[str, ...], name: str) -> None:
    for value in values:
        if value not in allowed:
            raise InvalidParameterError(f"invalid filter '{name}={value}'")


def label_matches(wanted: str, labels: Mapping[str, str]) -> bool:
    """Whether ``key`` or ``key=value`` is among the labels."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _exit_code(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParameterError(
            f"invalid filter 'exited={text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
        ) from None


def _published(host: HostConfig) -> list[str]:
    """Return the host's ports that were asked for: those are what dockerd's ``publish`` filter means."""
    return [
        f"{binding.host_port}/{port.partition('/')[2] or 'tcp'}"
        for port, bindings in (host.port_bindings or {}).items()
        for binding in bindings or ()
        if binding.host_port
    ]


def _ports_match(wanted: Iterable[str], ports: Iterable[str]) -> bool:
    """Whether any of ``80``, ``80/udp`` and ``80-90/tcp`` covers any of the ports."""
    ranges = [_port_range(text) for text in wanted]
    return any(
        protocol == other_protocol and first <= other_last and other_first <= last
        for first, last, protocol in ranges
        for other_first, other_last, other_protocol in map(_port_range, ports)
    )


def _port_range(text: str) -> tuple[int, int, str]:
    numbers, _, protocol = text.partition("/")
    first, _, last = numbers.partition("-")
    if not numbers.isascii() or not first.isdecimal() or not (last or first).isdecimal():
        raise InvalidParameterError(f"invalid port: {text}")
    return int(first), int(last or first), protocol or "tcp"


def now() -> int:
    """Return nanoseconds since the epoch."""
    return time.time_ns()
