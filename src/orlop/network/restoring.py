"""After a restart of the engine: what rows stand for is taken again, or removed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import OrlopError
from orlop.network.bridge import BridgeDriver
from orlop.network.host import HostDriver
from orlop.network.none import NoneDriver
from orlop.network.sublink import SublinkDriver

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, MutableMapping, Sequence

    from orlop.network.bridge_device import Surroundings
    from orlop.network.catalogue import Catalogue
    from orlop.network.driver import Driver
    from orlop.network.firewall.contract import PortRule
    from orlop.network.records import Records
    from orlop.network.sandbox import Endpoint


def make_links(
    catalogue: Catalogue, drivers: MutableMapping[str, Driver | HostDriver | NoneDriver]
) -> list[BridgeDriver]:
    """Make or find all bridges and parent interfaces; return the bridges' drivers.

    A user-defined one that can't be made is given up with a warning. Raises SystemFailureError for the default one.
    """
    made: list[BridgeDriver] = []
    for network in catalogue:
        driver = drivers.get(network.id)
        if not isinstance(driver, BridgeDriver | SublinkDriver):
            continue
        try:
            if isinstance(driver, SublinkDriver):
                driver.prepare()
                continue
            driver.device.create()
        except OrlopError as error:
            if network.default_bridge:
                raise
            catalogue.warnings.append(f"network {network.name} is not available: {error}")
            if isinstance(driver, BridgeDriver):  # a parent interface may still come
                del drivers[network.id]
            continue
        made.append(driver)
    return made


def claim(
    drivers: Mapping[str, Driver | HostDriver | NoneDriver],
    endpoints: Sequence[tuple[str, Endpoint]],
    running: Mapping[str, int],
) -> dict[str, tuple[PortRule, ...]]:
    """Take addresses and host ports of running containers again; return their rules by endpoint."""
    rules: dict[str, tuple[PortRule, ...]] = {}
    for container_id, endpoint in endpoints:
        driver = drivers.get(endpoint.network_id)
        if container_id in running and isinstance(driver, BridgeDriver | SublinkDriver):
            found = driver.restore_endpoint(endpoint)
            if found:
                rules[endpoint.id] = found
    return rules


def guarded(catalogue: Catalogue, endpoints: Sequence[tuple[str, Endpoint]], running: Container[str]) -> list[Endpoint]:
    """Return the endpoints of running containers that are kept from passing for others."""
    ids = {network.id for network in catalogue if network.guarded}
    return [endpoint for owner, endpoint in endpoints if owner in running and endpoint.network_id in ids]


async def put_rules_back(around: Surroundings) -> bool:
    """Put back what somebody else removed; returns whether anything was missing. Raises OrlopError."""
    missing = around.firewall is not None and await around.firewall.restore()
    return await around.guard.restore() or missing


async def clean_up(
    drivers: Mapping[str, Driver | HostDriver | NoneDriver],
    catalogue: Catalogue,
    records: Records,
    endpoints: Sequence[tuple[str, Endpoint]],
    *,
    running: Mapping[str, int],
) -> dict[str, list[Endpoint]]:
    """Remove what rows of containers that do not run stand for; return the endpoints of all others."""
    alive: dict[str, list[Endpoint]] = {}
    for container_id, row in endpoints:
        driver, network = drivers.get(row.network_id), catalogue.get(row.network_id)
        if network is not None and driver is None:
            continue  # its bridge could not be made this time
        if driver is None or network is None:
            records.delete_endpoint(row.id)
            continue
        endpoint = replace(row, network_name=network.name)
        if container_id in running:
            alive.setdefault(container_id, []).append(endpoint)
            continue
        await driver.leave(endpoint)
        if not isinstance(driver, HostDriver | NoneDriver):
            await asyncio.to_thread(driver.delete_link, endpoint)
    return alive
