"""The bridge driver: a veth pair for each container, addresses, masquerade, published ports."""

from __future__ import annotations

import asyncio
import errno
import logging
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError
from orlop.network import bandwidth, connections, ipam
from orlop.network.bridge_device import BridgeDevice
from orlop.network.firewall.contract import BridgeRules, PortRule
from orlop.network.gateway_modes import ROUTED, mode_of, split_ports, trusted_interfaces
from orlop.network.networks import OPTION_HOST_BINDING, OPTION_ICC, OPTION_MASQUERADE, OPTION_MTU
from orlop.network.pool import outer_name
from orlop.network.ports import LOOPBACK6
from orlop.spec.ids import generate_id
from orlop.spec.ports import PortRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.network.bridge_device import Surroundings
    from orlop.network.driver import Spot
    from orlop.network.networks import Network
    from orlop.network.pool import LinkPair
    from orlop.network.sandbox import Endpoint, EndpointWish
    from orlop.spec.ports import PortBinding

_log = logging.getLogger(__name__)


class BridgeDriver:
    """Implements Driver for one bridge network."""

    def __init__(self, network: Network, around: Surroundings) -> None:
        self._network = network
        self._around = around
        self._mtu = int(network.options.get(OPTION_MTU) or around.mtu)
        self._plugged: dict[str, Endpoint] = {}  # endpoint id -> endpoint, of running containers
        self.device = BridgeDevice(network, around, mtu=self._mtu)
        self.addresses = ipam.NetworkAddresses(network)

    @property
    def rules(self) -> BridgeRules:
        """The bridge as the firewall sees it."""
        return BridgeRules(
            name=self._network.bridge_name,
            subnet=self._network.subnet,
            subnet6=self._network.subnet6,
            masquerade=self._network.flag(OPTION_MASQUERADE),
            icc=self._network.flag(OPTION_ICC),
            internal=self._network.internal,
            direct_routing=self._around.direct_routing,
            crossing=self._around.crossing,
            mode=mode_of(self._network.options, 4),
            mode6=mode_of(self._network.options, 6),
            trusted=trusted_interfaces(self._network.options),
        )

    def remove_strays(self) -> None:
        """Remove ports of ours that belong to no running container."""
        self.device.remove_strays(self.plugged())

    def plugged(self) -> list[str]:
        """Return the names of the ports that belong to running containers."""
        return [endpoint.host_interface for endpoint in self._plugged.values()]

    # --- containers ---

    async def join(self, container_id: str, wish: EndpointWish, spot: Spot) -> Endpoint:
        """Put a link into the namespace whose other end is a port of the bridge."""
        around = self._around
        async with AsyncExitStack() as undo:
            pair = spot.pair
            name = outer_name() if pair is None else pair.host_name
            endpoint = self.addresses.take(generate_id(), wish)
            undo.callback(self.addresses.release, endpoint)
            endpoint = replace(endpoint, interface=spot.interface, host_interface=name)
            if self._network.internal:
                endpoint = replace(endpoint, gateway="", gateway6="")
            around.records.put_endpoint(container_id, endpoint)
            undo.callback(around.records.delete_endpoint, endpoint.id)
            if pair is None:  # recorded first: a running container's namespace would keep it
                pair = await around.pool.add_pair(spot.namespace, spot.inside, spot.interface, name=name)
                undo.callback(around.execute_unless_gone, rtnetlink.delete_link(name=name))
            if endpoint.address6:
                self._set_hardware_address(spot, pair, endpoint)  # before a link-local address is made of it
                conf = f"ipv6/conf/{spot.interface}"
                settings = {f"{conf}/accept_ra": "0", f"{conf}/disable_ipv6": "0"}
                await around.namespaces.open_inside(spot.namespace.fileno(), settings=settings)
            if self._network.guarded:
                await around.guard.add(endpoint)
                undo.push_async_callback(self._stop_guarding, endpoint)
            try:
                self._plug(spot, pair, endpoint)
            except OSError as error:
                raise SystemFailureError(f"failed to set up container networking: {error}") from error
            self._plugged[endpoint.id] = endpoint
            undo.callback(self._plugged.pop, endpoint.id, None)
            self.shape(endpoint)
            undo.pop_all()
        return endpoint

    def shape(self, endpoint: Endpoint, *, again: bool = False) -> None:
        """Hold an endpoint to the rates of its options; ``again`` when it was held to others before.

        Raises:
            InvalidParameterError: an option that cannot be.
            SystemFailureError: the kernel cannot.
        """
        wanted = bandwidth.parse_options(endpoint.options)
        if not again and not wanted.egress.rate and not wanted.ingress.rate:
            return
        try:
            bandwidth.apply(self._around.host, endpoint.host_interface, wanted)
        except OSError as error:
            raise SystemFailureError(f"failed to limit the container's bandwidth: {error}") from error
        self._plugged[endpoint.id] = endpoint

    async def publish(self, endpoint: Endpoint, ports: Sequence[PortRequest], container_name: str) -> Endpoint:
        """Take host ports and set the rules that lead from them to the container."""
        if not ports or self._network.internal:
            return endpoint
        where = self._network.options.get(OPTION_HOST_BINDING) or "0.0.0.0"
        around = self._around
        routed = [version for version in (4, 6) if mode_of(self._network.options, version) == ROUTED]
        direct: list[PortBinding] = []
        if routed:
            ports, direct = split_ports(ports, endpoint, routed=routed, default_ip=where)
            if direct:
                _log.info("%s: ports are published at its own address, by no port of the host", container_name)
        with ExitStack() as undo:
            undo.callback(around.ports.release, endpoint.id)
            try:
                bindings = await around.ports.take(
                    endpoint.id, ports, address=endpoint.address, address6=endpoint.address6, default_ip=where
                )
                published = replace(endpoint, ports=(*bindings, *direct))
                around.records.update_endpoint(published)
                undo.callback(around.records.update_endpoint, endpoint)
                await self._set_rules(published)
            except (SystemFailureError, InvalidParameterError) as error:
                name = f"{container_name} ({endpoint.id})"
                text = f"driver failed programming external connectivity on endpoint {name}: {error}"
                raise SystemFailureError(text) from error
            self._set_hairpin(published)
            undo.pop_all()
        self._plugged[endpoint.id] = published
        return published

    async def withdraw(self, endpoint: Endpoint) -> Endpoint:
        """Undo publish."""
        if endpoint.ports and self._around.firewall is not None:
            try:
                await self._around.firewall.withdraw(endpoint.id)
            except OrlopError as error:
                _log.warning("cannot remove rules of endpoint %.12s: %s", endpoint.id, error)
            await asyncio.to_thread(connections.end_with, endpoint)
        self._around.ports.release(endpoint.id)
        bare = replace(endpoint, ports=())
        if endpoint.id in self._plugged:
            self._plugged[endpoint.id] = bare
        return bare

    async def leave(self, endpoint: Endpoint) -> None:
        """Undo all that the endpoint's row stands for."""
        await self.withdraw(endpoint)
        self._plugged.pop(endpoint.id, None)
        # Down at once, and the bridge forgets its forwarding entries: they can't catch frames for the address's next
        # owner. It leaves the bridge when the kernel removes it, which costs nobody's time.
        self._around.execute_unless_gone(rtnetlink.set_link(0, name=endpoint.host_interface, up=False))
        if any(option in endpoint.options for option in bandwidth.OPTIONS):
            self._around.execute_unless_gone(rtnetlink.delete_link(name=bandwidth.ifb_name(endpoint.host_interface)))
        if self._network.guarded:
            await self._stop_guarding(endpoint)
        self.addresses.release(endpoint)
        self._around.records.delete_endpoint(endpoint.id)

    async def _stop_guarding(self, endpoint: Endpoint) -> None:
        try:
            await self._around.guard.remove(endpoint)
        except OrlopError as error:
            _log.warning("endpoint %.12s: %s", endpoint.id, error)

    def adopt(self, endpoint: Endpoint) -> None:
        """Take up an endpoint of a running container; its rules come with the firewall's start."""
        self._plugged[endpoint.id] = endpoint
        try:
            self.device.plug(endpoint.host_interface)
        except NetlinkError as error:
            _log.warning("endpoint %.12s lost its network interface: %s", endpoint.id, error)

    def delete_link(self, endpoint: Endpoint) -> None:
        """Remove the outer link itself (12 to 20 ms); the kernel does it by itself once the namespace is unused."""
        with rtnetlink.Rtnetlink.open() as host:
            try:
                host.execute(rtnetlink.delete_link(name=endpoint.host_interface))
            except NetlinkError as error:
                if error.errno not in (errno.ENODEV, errno.ENOENT):
                    _log.warning("%s", error)

    def restore_endpoint(self, endpoint: Endpoint) -> tuple[PortRule, ...]:
        """Take address and host ports of a running container again; return their rules."""
        self.addresses.claim(endpoint)
        requests = [
            PortRequest(port.container_port, port.protocol, port.host_ip, port.host_port, port.host_port)
            for port in endpoint.ports
            if port.host_port
        ]
        try:
            self._around.ports.allocate(endpoint.id, requests, address=endpoint.address, address6=endpoint.address6)
        except OrlopError as error:
            _log.warning("cannot hold ports of endpoint %.12s: %s", endpoint.id, error)
        return self._port_rules(endpoint)

    # --- parts ---

    @staticmethod
    def _set_hardware_address(spot: Spot, pair: LinkPair, endpoint: Endpoint) -> None:
        spot.inside.execute(rtnetlink.set_link(pair.index, address=_packed_mac(endpoint)))

    def _plug(self, spot: Spot, pair: LinkPair, endpoint: Endpoint) -> None:
        mtu = self._mtu if self._mtu != self._around.mtu else 0  # the pool's links have the engine's
        inside = [rtnetlink.set_link(pair.index, address=_packed_mac(endpoint), mtu=mtu)]
        inside += [rtnetlink.add_address(pair.index, interface) for interface in ipam.interfaces(endpoint)]
        spot.inside.execute(*inside)
        outside = rtnetlink.set_link(pair.host_index, master=self.device.index, mtu=mtu)
        try:
            self._around.host.execute(outside)
        except NetlinkError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL, errno.ENOENT):
                raise
            self.device.repair(endpoint.host_interface for endpoint in self._plugged.values())  # somebody removed it
            self._around.host.execute(rtnetlink.set_link(pair.host_index, master=self.device.index, mtu=mtu))

    def _set_hairpin(self, endpoint: Endpoint) -> None:
        """With br_netfilter a connection to one's own published port is turned round inside the bridge."""
        try:
            index = self._around.host.link(endpoint.host_interface).index
            self._around.host.execute(rtnetlink.set_port_hairpin(index, enabled=True))
        except OSError as error:
            raise SystemFailureError(f"failed to set up container networking: {error}") from error

    async def _set_rules(self, endpoint: Endpoint) -> None:
        firewall = self._around.firewall
        if firewall is None:
            raise SystemFailureError("published ports need firewall rules, which are switched off (iptables=false)")
        try:
            await firewall.publish(endpoint.id, self._port_rules(endpoint))
            await asyncio.to_thread(connections.begin_anew, endpoint.ports)
        except asyncio.CancelledError:
            await firewall.withdraw(endpoint.id)
            raise

    def _port_rules(self, endpoint: Endpoint) -> tuple[PortRule, ...]:
        return tuple(
            PortRule(
                bridge=self._network.bridge_name,
                protocol=port.protocol,
                host_ip=port.host_ip,
                host_port=port.host_port,
                address=endpoint.address6 if ":" in port.host_ip else endpoint.address,
                container_port=port.container_port,
            )
            for port in endpoint.ports
            if port.host_ip != LOOPBACK6 and (endpoint.address6 if ":" in port.host_ip else endpoint.address)
        )


def _packed_mac(endpoint: Endpoint) -> bytes:
    return bytes.fromhex(endpoint.mac.replace(":", ""))
