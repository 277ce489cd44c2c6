"""The ipvlan driver: containers share the parent's hardware address and have IP addresses of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.kernel import rtnetlink
from orlop.network.networks import OPTION_IPVLAN_FLAG, OPTION_IPVLAN_MODE
from orlop.network.sublink import SublinkDriver

if TYPE_CHECKING:
    from orlop.kernel.netlink import Request
    from orlop.network.bridge_device import Surroundings
    from orlop.network.networks import Network

# include/uapi/linux/if_link.h, enum ipvlan_mode and IPVLAN_F_*
MODES = {"l2": 0, "l3": 1, "l3s": 2}
FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def ipvlan_driver(network: Network, around: Surroundings) -> SublinkDriver:
    """Return the driver of an ipvlan network.

    In the modes l3 and l3s the parent routes: there is no neighbour to ask and no gateway, and what else is on the
    parent's network needs a route to the containers (ipvlan.rst). l3s lets the host's rules see the packets.
    """
    mode = network.options.get(OPTION_IPVLAN_MODE, "l2")
    flags = FLAGS[network.options.get(OPTION_IPVLAN_FLAG, "bridge")]

    def make(name: str, parent: int, netns: int) -> Request:
        return rtnetlink.add_ipvlan(name, parent, netns=netns, mode=MODES[mode], flags=flags)

    return SublinkDriver(network, around, make=make, own_mac=False, routed=mode != "l2")
