"""Connections that the kernel remembers: those by published ports end with the container, or begin anew with it.

Where the kernel led the first packet of a connection it leads all others, also when the rule has gone and the address
is another container's, whose ports were never published (threats.md G4); and a UDP peer that kept sending before
there was a rule would never be led by it. What could begin while the rules were gone would be let through by the first
of them, which asks no more who it is (G5, G8). In a worker thread: the kernel walks through the whole of its table.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING

from orlop.kernel import conntrack
from orlop.kernel.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from orlop.network.firewall.contract import BridgeRules
    from orlop.network.sandbox import Endpoint
    from orlop.spec.ports import PortBinding

_log = logging.getLogger(__name__)


def end_with(endpoint: Endpoint) -> None:
    """Forget all connections that led to an endpoint whose rules are gone."""
    addresses = {endpoint.address6 if ":" in port.host_ip else endpoint.address for port in endpoint.ports}
    try:
        with NetlinkSocket.open(conntrack.NETLINK_NETFILTER) as host:
            for address in filter(None, addresses):
                conntrack.forget_led_to(host, address)
    except OSError as error:
        _log.warning("connections to endpoint %.12s go on: %s", endpoint.id, error)


def begin_anew(ports: Iterable[PortBinding]) -> None:
    """Forget the flows of UDP to ports that are published from now on."""
    by_version: dict[int, set[int]] = {}
    for port in ports:
        if port.protocol == "udp" and port.host_port:
            by_version.setdefault(6 if ":" in port.host_ip else 4, set()).add(port.host_port)
    if not by_version:
        return
    try:
        with NetlinkSocket.open(conntrack.NETLINK_NETFILTER) as host:
            for version, numbers in by_version.items():
                conntrack.forget_udp_to(host, numbers, version=version)
    except OSError as error:
        _log.warning("peers that were there before go on without an answer: %s", error)


def end_refused(bridges: Collection[BridgeRules]) -> None:
    """Forget the connections that the rules of these bridges let nobody begin; what goes on has to begin anew."""
    if len(bridges) < 2 and all(bridge.icc and not bridge.internal for bridge in bridges):
        return
    try:
        with NetlinkSocket.open(conntrack.NETLINK_NETFILTER) as host:
            for version in (4, 6):
                refusal = Refusal(bridges, version)
                conntrack.forget_where(host, refusal.meets, version=version)
    except OSError as error:
        _log.warning("connections that began without rules go on: %s", error)


class Refusal:
    """Which connections the rules of some bridges refuse, of one IP version."""

    def __init__(self, bridges: Iterable[BridgeRules], version: int) -> None:
        subnets = ((bridge.subnet if version == 4 else bridge.subnet6, bridge) for bridge in bridges)
        self._subnets = [(ipaddress.ip_network(subnet), bridge) for subnet, bridge in subnets if subnet]

    def meets(self, flow: conntrack.Flow) -> bool:
        """Whether a connection is refused; one of the host's own may count as such, and is let through anew."""
        source, answerer = self._bridge(flow.source), self._bridge(flow.answerer)
        published = flow.destination != flow.answerer
        if source is None or answerer is None:
            return any(bridge is not None and bridge.internal for bridge in (source, answerer))
        if source is answerer:
            return not source.icc and not published
        return source.internal or answerer.internal or not (answerer.crossing and published)

    def _bridge(self, address: conntrack.Address) -> BridgeRules | None:
        return next((bridge for subnet, bridge in self._subnets if address in subnet), None)
