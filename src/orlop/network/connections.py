"""Connections by published ports that the kernel remembers: they end with the container, or begin anew with it.

Where the kernel led the first packet of a connection it leads all others, also when the rule has gone and the address
is another container's, whose ports were never published (threats.md G4); and a UDP peer that kept sending before
there was a rule would never be led by it. In a worker thread: the kernel walks through the whole of its table.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orlop.kernel import conntrack
from orlop.kernel.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        if port.protocol == "udp":
            by_version.setdefault(6 if ":" in port.host_ip else 4, set()).add(port.host_port)
    if not by_version:
        return
    try:
        with NetlinkSocket.open(conntrack.NETLINK_NETFILTER) as host:
            for version, numbers in by_version.items():
                conntrack.forget_udp_to(host, numbers, version=version)
    except OSError as error:
        _log.warning("peers that were there before go on without an answer: %s", error)
