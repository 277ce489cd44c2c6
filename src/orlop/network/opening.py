"""What all networks share, found out and opened when the engine starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.kernel.rtnetlink import Rtnetlink
from orlop.network.bridge_device import Surroundings
from orlop.network.firewall.antispoof import SpoofGuard
from orlop.network.firewall.choice import choose_firewall, table_name
from orlop.network.pool import NamespaceFactory, NamespacePool
from orlop.network.ports import PortAllocator, listens_on_ipv6, local_port_range

if TYPE_CHECKING:
    from orlop.network.catalogue import Catalogue
    from orlop.network.options import NetworkOptions
    from orlop.network.records import Records
    from orlop.network.relayed import RelayedPorts


def open_surroundings(
    options: NetworkOptions,
    records: Records,
    *,
    catalogue: Catalogue,
    namespaces: NamespaceFactory,
    relay: RelayedPorts | None,
    keep: bool,
) -> Surroundings:
    """Find out which networks there are, where they go, and what they need.

    Args:
        options: the administrator's.
        records: of the networks.
        catalogue: is filled with them.
        namespaces: where network namespaces come from.
        relay: carries what the kernel cannot publish, if anything does.
        keep: containers run: their networks stay as they are.

    Raises:
        OrlopError: nothing is left open then.
    """
    host = Rtnetlink.open()
    try:
        catalogue.load(host, keep=keep)
        firewall = choose_firewall(options, prefix=catalogue.prefix)  # before anything that would have to be closed
        return Surroundings(
            host=host,
            records=records,
            ports=PortAllocator(dynamic=local_port_range(), relay=relay, ipv6=listens_on_ipv6()),
            pool=NamespacePool(namespaces, size=options.pool_size, mtu=options.mtu),
            namespaces=namespaces,
            firewall=firewall,
            guard=SpoofGuard(table=table_name(catalogue.prefix)),
            mtu=options.mtu,
            direct_routing=options.allow_direct_routing,
            crossing=options.allow_published_between_networks,
            ip_forward=options.ip_forward,
        )
    except BaseException:
        host.close()
        raise
