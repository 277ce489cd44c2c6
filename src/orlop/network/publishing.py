"""Which of a container's networks its ports are published by: the one that leads out, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.network.routing import outward

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.network.driver import Driver
    from orlop.network.records import Records
    from orlop.network.sandbox import Endpoint
    from orlop.spec.ports import PortRequest


async def publish_by_way_out(
    endpoints: Sequence[Endpoint],
    ports: Sequence[PortRequest],
    container_name: str,
    *,
    driver: Callable[[str], Driver],
    records: Records,
) -> list[Endpoint]:
    """Have ports published by the network that leads out; returns the endpoints as they are then.

    Args:
        endpoints: all of the container's.
        ports: what is to be published.
        container_name: for messages.
        driver: of a network, by its id.
        records: where endpoints are written.

    Raises:
        OrlopError: in Docker's words.
    """
    ways = outward(endpoints)
    result = list(endpoints)
    if not ports or (ways and ways[0].ports):
        return result
    for place, endpoint in enumerate(result):
        if endpoint.ports:
            result[place] = await driver(endpoint.network_id).withdraw(endpoint)
            records.update_endpoint(result[place])
            ports = _same_ports(endpoint, ports)
    if ways:
        place = next(i for i, endpoint in enumerate(result) if endpoint.id == ways[0].id)
        result[place] = await driver(ways[0].network_id).publish(result[place], ports, container_name)
    return result


def _same_ports(endpoint: Endpoint, ports: Sequence[PortRequest]) -> list[PortRequest]:
    """Return the requests with the host ports that they were given before, so that moving changes none."""
    given = {(binding.container_port, binding.protocol): binding.host_port for binding in endpoint.ports}
    result = []
    for port in ports:
        host_port = given.get((port.container_port, port.protocol))
        keep = host_port is not None and not port.first
        result.append(replace(port, first=host_port or 0, last=host_port or 0) if keep else port)
    return result
