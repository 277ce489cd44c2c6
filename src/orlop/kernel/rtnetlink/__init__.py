"""rtnetlink(7): links, addresses, routes and bridges' forwarding tables.

The functions make requests and touch nothing; :class:`Rtnetlink` sends them, several at a time where the caller wants.
"""

from orlop.kernel.rtnetlink.addresses import (
    Address,
    IpAddress,
    IpInterface,
    IpNetwork,
    Route,
    add_address,
    add_forwarding,
    add_route,
    delete_address,
    delete_route,
    parse_address,
    parse_route,
)
from orlop.kernel.rtnetlink.links import (
    Link,
    LinkStatistics,
    add_bridge,
    add_dummy,
    add_ipvlan,
    add_macvlan,
    add_veth,
    add_vlan,
    delete_link,
    get_link,
    parse_link,
    refuse_link_local,
    set_bridge_stp,
    set_link,
    set_port_hairpin,
)
from orlop.kernel.rtnetlink.session import (
    Rtnetlink,
)

__all__ = [
    "Address",
    "IpAddress",
    "IpInterface",
    "IpNetwork",
    "Link",
    "LinkStatistics",
    "Route",
    "Rtnetlink",
    "add_address",
    "add_bridge",
    "add_dummy",
    "add_forwarding",
    "add_ipvlan",
    "add_macvlan",
    "add_route",
    "add_veth",
    "add_vlan",
    "delete_address",
    "delete_link",
    "delete_route",
    "get_link",
    "parse_address",
    "parse_link",
    "parse_route",
    "refuse_link_local",
    "set_bridge_stp",
    "set_link",
    "set_port_hairpin",
]
