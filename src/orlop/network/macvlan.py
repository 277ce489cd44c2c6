"""The macvlan driver: containers are machines of their own on the parent's network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.kernel import rtnetlink
from orlop.network.networks import OPTION_MACVLAN_MODE
from orlop.network.sublink import SublinkDriver

if TYPE_CHECKING:
    from orlop.kernel.netlink import Request
    from orlop.network.bridge_device import Surroundings
    from orlop.network.networks import Network

# include/uapi/linux/if_link.h, enum macvlan_mode; Docker's default is bridge
MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}


def macvlan_driver(network: Network, around: Surroundings) -> SublinkDriver:
    """Return the driver of a macvlan network."""
    mode = MODES[network.options.get(OPTION_MACVLAN_MODE, "bridge")]

    def make(name: str, parent: int, netns: int) -> Request:
        return rtnetlink.add_macvlan(name, parent, netns=netns, mode=mode)

    return SublinkDriver(network, around, make=make)
