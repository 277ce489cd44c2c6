"""Which of a container's networks leads out. Pure, but for the routes themselves."""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING

from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.kernel.rtnetlink import Rtnetlink
    from orlop.network.sandbox import Endpoint

_DEFAULTS = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


def outward(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that have a way out, the one that is taken first (libnetwork's order).

    Those of the highest priority come first, then those with both IP versions, then by the network's name.
    """
    able = [endpoint for endpoint in endpoints if endpoint.leads_out()]
    return sorted(
        able,
        key=lambda endpoint: (
            -endpoint.priority,
            not (endpoint.leads_out(4) and endpoint.leads_out(6)),
            endpoint.network_name,
        ),
    )


def set_default_routes(inside: Rtnetlink, endpoints: Sequence[Endpoint], *, fresh: bool) -> None:
    """Lead each IP version out by the first endpoint that can.

    Args:
        inside: rtnetlink in the container's namespace.
        endpoints: all of the container's.
        fresh: the namespace has no routes yet.

    Raises:
        NetlinkError: the kernel refused.
    """
    ways = outward(endpoints)
    for version in (4, 6):
        chosen = next((way for way in ways if way.leads_out(version)), None)
        if chosen is None:
            if not fresh:
                _remove_default(inside, version)
            continue
        if chosen.driver == "cni":
            continue  # its plugins have set the route
        text = chosen.gateway if version == 4 else chosen.gateway6
        gateway = ipaddress.ip_address(text) if text else None
        index = inside.link(chosen.interface).index
        if not fresh:
            _remove_default(inside, version)
        inside.execute(rtnetlink.add_route(_DEFAULTS[version], index=index, gateway=gateway))


def _remove_default(inside: Rtnetlink, version: int) -> None:
    try:
        inside.execute(rtnetlink.delete_route(_DEFAULTS[version]))
    except NetlinkError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT, errno.EAFNOSUPPORT):
            raise
