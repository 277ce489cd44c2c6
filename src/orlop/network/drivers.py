"""Which driver a network has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.network.bridge import BridgeDriver
from orlop.network.cni import CniDriver
from orlop.network.host import HostDriver
from orlop.network.ipvlan import ipvlan_driver
from orlop.network.macvlan import macvlan_driver
from orlop.network.none import NoneDriver

if TYPE_CHECKING:
    from orlop.network.bridge_device import Surroundings
    from orlop.network.networks import Network
    from orlop.network.sublink import SublinkDriver


def make_driver(
    network: Network, around: Surroundings
) -> BridgeDriver | CniDriver | SublinkDriver | HostDriver | NoneDriver:
    """Return the driver of a network."""
    if network.driver == "host":
        return HostDriver(network, around.records)
    if network.driver == "null":
        return NoneDriver(network, records=around.records, pool=around.pool, namespaces=around.namespaces)
    if network.driver == "cni":
        return CniDriver(network, around)
    if network.driver == "macvlan":
        return macvlan_driver(network, around)
    if network.driver == "ipvlan":
        return ipvlan_driver(network, around)
    return BridgeDriver(network, around)
