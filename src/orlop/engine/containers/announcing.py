"""Events of networks and volumes that come and go with a container's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.events import Events
    from orlop.network.sandbox import Sandbox


def announce_use(events: Events, container: Container, sandbox: Sandbox | None) -> None:
    """Tell that a container that starts was connected to its networks, and its volumes mounted."""
    _tell_networks(events, "connect", container, sandbox)
    for point in container.definition.mounts:
        if point.kind == "volume":
            attributes = {
                "container": container.id,
                "destination": point.destination,
                "driver": "local",
                "propagation": point.propagation,
                "read/write": "true" if point.writable else "false",
            }
            events.publish("volume", "mount", point.name, attributes)


def announce_release(events: Events, container: Container, sandbox: Sandbox | None) -> None:
    """Tell the opposite of a container that ended."""
    _tell_networks(events, "disconnect", container, sandbox)
    for point in container.definition.mounts:
        if point.kind == "volume":
            events.publish("volume", "unmount", point.name, {"container": container.id, "driver": "local"})


def _tell_networks(events: Events, action: str, container: Container, sandbox: Sandbox | None) -> None:
    if sandbox is None or sandbox.mode == "container":
        return
    for endpoint in sandbox.endpoints:
        attributes = {"container": container.id, "name": endpoint.network_name, "type": endpoint.driver}
        events.publish("network", action, endpoint.network_id, attributes)
