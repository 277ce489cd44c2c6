"""The ipvlan driver: containers share the parent's hardware address and have IP addresses of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.kernel import rtnetlink
from orlop.network.networks import OPTION_IPVLAN_FLAG
from orlop.network.sublink import SublinkDriver

if TYPE_CHECKING:
    from orlop.kernel.netlink import Request
    from orlop.network.bridge_device import Surroundings
    from orlop.network.networks import Network

# include/uapi/linux/if_link.h, enum ipvlan_mode and IPVLAN_F_*
_L2 = 0
FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def ipvlan_driver(network: Network, around: Surroundings) -> SublinkDriver:
    """Return the driver of an ipvlan network."""
    flags = FLAGS[network.options.get(OPTION_IPVLAN_FLAG, "bridge")]

    def make(name: str, parent: int, netns: int) -> Request:
        return rtnetlink.add_ipvlan(name, parent, netns=netns, mode=_L2, flags=flags)

    return SublinkDriver(network, around, make=make, own_mac=False)
