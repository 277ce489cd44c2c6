"""What macvlan and ipvlan have in common: a container's interface is a part of one of the host's own.

There is no bridge, no firewall rule and no published port: containers are on the parent's network, and the host itself
cannot reach them by it (that is how the kernel has it).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError
from orlop.network import bandwidth, ipam, parents
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.kernel.netlink import Request
    from orlop.network.bridge_device import Surroundings
    from orlop.network.driver import Spot
    from orlop.network.networks import Network
    from orlop.network.sandbox import Endpoint, EndpointWish
    from orlop.spec.ports import PortRequest

_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
_log = logging.getLogger(__name__)


class SublinkDriver:
    """Implements Driver for a network whose members are sublinks of one parent.

    Args:
        network: its options name the parent.
        around: what all networks share.
        make: returns the request for a sublink, from its name, the parent's index and the namespace's descriptor.
        own_mac: sublinks have hardware addresses of their own.
        routed: there is no gateway: everything leaves straight by the interface.
    """

    def __init__(
        self,
        network: Network,
        around: Surroundings,
        *,
        make: Callable[[str, int, int], Request],
        own_mac: bool = True,
        routed: bool = False,
    ) -> None:
        self._network = network
        self._around = around
        self._make = make
        self._own_mac = own_mac
        self._routed = routed
        self.addresses = ipam.NetworkAddresses(network)

    def prepare(self) -> None:
        """Make the parent if it is this network's to make and not there, after a reboot say. Raises OrlopError."""
        if self._network.made_parent and parents.is_missing(self._around.host, self._network):
            parents.make(self._around.host, self._network)

    async def join(self, container_id: str, wish: EndpointWish, spot: Spot) -> Endpoint:
        """Put a sublink into the namespace."""
        around = self._around
        if any(option in wish.options for option in bandwidth.OPTIONS):
            raise InvalidParameterError(f"bandwidth cannot be limited on a network of driver {self._network.driver}")
        with ExitStack() as undo:
            endpoint = self.addresses.take(generate_id(), wish)
            undo.callback(self.addresses.release, endpoint)
            endpoint = replace(endpoint, interface=spot.interface)
            if self._network.closed or self._routed:
                endpoint = replace(endpoint, gateway="", gateway6="", on_link=not self._network.closed)
            around.records.put_endpoint(container_id, endpoint)
            undo.callback(around.records.delete_endpoint, endpoint.id)
            self.prepare()
            try:
                parent = around.host.link(self._network.parent)
                around.host.execute(self._make(spot.interface, parent.index, spot.namespace.fileno()))
                undo.callback(_delete_inside, spot)
                link = spot.inside.link(spot.interface)
                mac = bytes.fromhex(endpoint.mac.replace(":", "")) if self._own_mac else b""
                if not self._own_mac:
                    endpoint = replace(endpoint, mac=ipam.show_mac(link.address))
                await _switch_on(spot, link.index, mac)
                if endpoint.address6:
                    conf = f"ipv6/conf/{spot.interface}"
                    settings = {f"{conf}/accept_ra": "0", f"{conf}/disable_ipv6": "0"}
                    await around.namespaces.open_inside(spot.namespace.fileno(), settings=settings)
                spot.inside.execute(
                    *(rtnetlink.add_address(link.index, address) for address in ipam.interfaces(endpoint))
                )
            except OSError as error:
                raise SystemFailureError(f"failed to create the {self._network.driver} port: {error}") from error
            undo.pop_all()
        return endpoint

    async def publish(self, endpoint: Endpoint, ports: Sequence[PortRequest], container_name: str) -> Endpoint:
        """Nothing is published: as with Docker, the container has addresses of the parent's network already."""
        del ports, container_name
        return endpoint

    async def withdraw(self, endpoint: Endpoint) -> Endpoint:
        """Nothing was published."""
        return endpoint

    async def leave(self, endpoint: Endpoint) -> None:
        """Give the addresses back; the link goes with the namespace, or is removed inside."""
        self.addresses.release(endpoint)
        self._around.records.delete_endpoint(endpoint.id)

    def adopt(self, endpoint: Endpoint) -> None:
        """Nothing was lost; see :meth:`restore_endpoint`."""

    def restore_endpoint(self, endpoint: Endpoint) -> tuple[()]:
        """Take the addresses of a running container again."""
        self.addresses.claim(endpoint)
        return ()

    def delete_link(self, endpoint: Endpoint) -> None:
        """There is none on the host's side."""


async def _switch_on(spot: Spot, index: int, mac: bytes) -> None:
    """Set the hardware address and switch a link on.

    Who had that address just now may still have it: the kernel takes dead namespaces away when it comes to it.
    """
    for wait in _WAITS:
        try:
            spot.inside.execute(rtnetlink.set_link(index, address=mac, up=True))
        except NetlinkError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            await asyncio.sleep(wait)
        else:
            return
    spot.inside.execute(rtnetlink.set_link(index, address=mac, up=True))


def _delete_inside(spot: Spot) -> None:
    try:
        spot.inside.execute(rtnetlink.delete_link(name=spot.interface))
    except NetlinkError as error:
        _log.warning("%s", error)
