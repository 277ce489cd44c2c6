"""Counters of containers' interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.kernel.netlink import NetlinkError
from orlop.kernel.rtnetlink import LinkStatistics

if TYPE_CHECKING:
    from orlop.kernel.rtnetlink import Rtnetlink
    from orlop.network.sandbox import Sandbox


def interface_statistics(host: Rtnetlink, sandbox: Sandbox | None) -> dict[str, LinkStatistics]:
    """Return the counters of each interface of a container, as the container sees them."""
    found: dict[str, LinkStatistics] = {}
    for endpoint in sandbox.endpoints if sandbox is not None else ():
        if not endpoint.host_interface:
            continue
        try:
            outer = host.link(endpoint.host_interface).statistics
        except NetlinkError:
            continue
        found[endpoint.interface] = LinkStatistics(
            rx_packets=outer.tx_packets,
            tx_packets=outer.rx_packets,
            rx_bytes=outer.tx_bytes,
            tx_bytes=outer.rx_bytes,
            rx_errors=outer.tx_errors,
            tx_errors=outer.rx_errors,
            rx_dropped=outer.tx_dropped,
            tx_dropped=outer.rx_dropped,
        )
    return found
