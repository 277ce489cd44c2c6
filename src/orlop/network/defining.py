"""User-defined networks made and removed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.network import parents, sysctl
from orlop.network.bridge import BridgeDriver
from orlop.network.configurations import check_unused
from orlop.network.drivers import make_driver
from orlop.network.sublink import SublinkDriver

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from orlop.network.bridge_device import Surroundings
    from orlop.network.catalogue import Catalogue
    from orlop.network.driver import Driver
    from orlop.network.host import HostDriver
    from orlop.network.networks import Network
    from orlop.network.none import NoneDriver
    from orlop.network.requests import NetworkRequest

    Drivers = MutableMapping[str, Driver | HostDriver | NoneDriver]


async def create(around: Surroundings, catalogue: Catalogue, drivers: Drivers, request: NetworkRequest) -> Network:
    """Make a network; record it before anything of it exists, and show it when all of it does.

    One at a time, and none while another is removed: the caller sees to it.

    Raises:
        OrlopError: in Docker's words; nothing is left behind.
    """
    network = catalogue.plan(request, around.host)
    if network.config_only:
        around.records.put_network(network)
        catalogue.add(network)
        return network
    if network.parent and parents.is_missing(around.host, network):
        parents.check(around.host, network)
        network = replace(network, made_parent=True)
    if network.guarded:
        await around.guard.check()
    driver = make_driver(network, around)
    around.records.put_network(network)
    try:
        if isinstance(driver, SublinkDriver):
            driver.prepare()
        if isinstance(driver, BridgeDriver):
            await _make_bridge(around, network, driver)
    except BaseException:
        around.records.delete_network(network.id)
        raise
    catalogue.add(network)
    drivers[network.id] = driver
    return network


async def _make_bridge(around: Surroundings, network: Network, driver: BridgeDriver) -> None:
    try:
        driver.device.create()
        if around.firewall is not None:
            await around.firewall.add_bridge(driver.rules)
        driver.device.route_loopback()
        if network.subnet6 and around.ip_forward:
            sysctl.enable_forwarding6()
    except BaseException:
        driver.device.remove()
        raise


async def remove(around: Surroundings, catalogue: Catalogue, drivers: Drivers, network: Network) -> None:
    """Remove a network that nobody is on: hide it, so that nobody comes, and forget its row last.

    Raises:
        OrlopError: it is there as before, and can be removed again.
    """
    check_unused(catalogue, network)
    driver = drivers.pop(network.id, None)
    catalogue.hide(network)
    try:
        if isinstance(driver, BridgeDriver):
            driver.device.remove()
            if around.firewall is not None:
                await around.firewall.remove_bridge(network.bridge_name)
        if network.made_parent:
            parents.remove(around.host, network)
        around.records.delete_network(network.id)
    except BaseException:
        catalogue.add(network)
        if driver is not None:
            drivers[network.id] = driver
        raise
