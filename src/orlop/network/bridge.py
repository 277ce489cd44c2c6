"""The bridge driver: a Linux bridge, a veth pair for each container, addresses, masquerade, published ports."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError
from orlop.network import ipam
from orlop.network.firewall.contract import BridgeRules, PortRule
from orlop.network.networks import OPTION_HOST_BINDING, OPTION_ICC, OPTION_MASQUERADE, OPTION_MTU
from orlop.network.pool import INTERFACE
from orlop.network.sandbox import Endpoint, Sandbox
from orlop.network.sysctl import protect_bridge, route_loopback
from orlop.spec.ids import generate_id
from orlop.spec.ports import PortRequest

if TYPE_CHECKING:
    from orlop.kernel.netlink import Request
    from orlop.kernel.rtnetlink import Rtnetlink
    from orlop.network.firewall.contract import Firewall
    from orlop.network.networks import Network
    from orlop.network.pool import NamespaceFactory, NamespacePool, ReadyNamespace
    from orlop.network.ports import PortAllocator
    from orlop.network.records import Records
    from orlop.network.sandbox import AttachRequest

ALIAS = "orlop"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all bridges of an engine share.

    Attributes:
        host: rtnetlink in the engine's own namespace.
        firewall: None when the administrator switched rules off.
        direct_routing: see NetworkOptions.
    """

    host: Rtnetlink
    records: Records
    ports: PortAllocator
    pool: NamespacePool
    namespaces: NamespaceFactory
    firewall: Firewall | None
    mtu: int
    direct_routing: bool = False


class BridgeDriver:
    """Implements Driver for one bridge network."""

    def __init__(self, network: Network, around: Surroundings) -> None:
        self._network = network
        self._around = around
        self._subnet = ipaddress.IPv4Network(network.subnet)
        self._gateway = ipaddress.IPv4Address(network.gateway)
        self._mtu = int(network.options.get(OPTION_MTU) or around.mtu)
        self._index = 0
        self._plugged: dict[str, Endpoint] = {}  # endpoint id -> endpoint, of running containers
        self.addresses = ipam.AddressSpace(
            self._subnet,
            gateway=self._gateway,
            ip_range=ipaddress.IPv4Network(network.ip_range) if network.ip_range else None,
            name=f"{network.name} ({network.id})",
        )

    @property
    def rules(self) -> BridgeRules:
        """The bridge as the firewall sees it."""
        return BridgeRules(
            name=self._network.bridge_name,
            subnet=self._network.subnet,
            masquerade=self._network.flag(OPTION_MASQUERADE),
            icc=self._network.flag(OPTION_ICC),
            internal=self._network.internal,
            direct_routing=self._around.direct_routing,
        )

    # --- the bridge itself ---

    def create(self) -> None:
        """Make the bridge, or take the one of that name; put it in order and switch it on.

        Raises:
            SystemFailureError: the kernel refused, or the name belongs to something that is no bridge.
        """
        host, name = self._around.host, self._network.bridge_name
        try:
            try:
                link = host.link(name)
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise
                # a fixed address of its own: else the bridge's changes whenever a port comes or goes
                mac = b"\x02\x42" + os.urandom(4)
                host.execute(
                    rtnetlink.add_bridge(name, address=mac, mtu=self._mtu),
                    rtnetlink.set_link(0, name=name, alias=ALIAS),
                )
                link = host.link(name)
            if link.kind != "bridge":
                raise SystemFailureError(f"interface {name} exists and is not a bridge: {link.kind or 'hardware'}")
            self._index = link.index
            if link.stp:
                host.execute(rtnetlink.set_bridge_stp(link.index, enabled=False))
            protect_bridge(name)
            wanted = ipaddress.IPv4Interface((self._gateway, self._subnet.prefixlen))
            for address in host.addresses(link.index):
                if address.interface.version == 4 and address.interface != wanted:
                    host.execute(rtnetlink.delete_address(link.index, address.interface))
            host.execute(
                rtnetlink.add_address(link.index, wanted, replace=True),
                rtnetlink.set_link(link.index, up=True, mtu=self._mtu),
            )
        except OSError as error:
            raise SystemFailureError(f"failed to set up bridge {name}: {error}") from error

    def route_loopback(self) -> None:
        """Let the host's own loopback connections in; after the firewall's rules are in force."""
        if self._around.firewall is not None:
            route_loopback(self._network.bridge_name)

    def remove(self) -> None:
        """Remove the bridge; one that is gone is no error."""
        self._execute_unless_gone(rtnetlink.delete_link(name=self._network.bridge_name))

    def remove_strays(self) -> None:
        """Remove ports of ours that belong to no running container."""
        known = {endpoint.host_interface for endpoint in self._plugged.values()}
        for link in self._around.host.links(master=self._index):
            if link.kind == "veth" and _is_ours(link.name) and link.name not in known:
                self._execute_unless_gone(rtnetlink.delete_link(link.index))

    # --- containers ---

    async def attach(self, container_id: str, request: AttachRequest) -> Sandbox:
        """Return a sandbox with eth0 on the bridge."""
        endpoint_id = generate_id()
        ready = await self._around.pool.take()
        with ExitStack() as undo:
            undo.callback(ready.close)
            endpoint = self._reserve(endpoint_id, container_id, request, undo, host_interface=ready.host_name)
            try:
                self._plug(ready, endpoint)
            except OSError as error:
                raise SystemFailureError(f"failed to set up container networking: {error}") from error
            self._plugged[endpoint.id] = endpoint
            undo.callback(self._plugged.pop, endpoint.id, None)
            await self._publish(endpoint, request.container_name)
            undo.pop_all()
        ready.inside.close()
        sysctls = {}
        if not ready.ipv6_off:
            conf = f"net.ipv6.conf.{INTERFACE}"
            sysctls = {f"{conf}.disable_ipv6": "1", f"{conf}.accept_ra": "0"}
        return Sandbox(generate_id(), "bridge", ready.netns, (endpoint,), sysctls)

    async def adopt(self, container_id: str, endpoint: Endpoint, pidfd: int) -> Sandbox:
        """Take up a container that kept running; its rules come with the firewall's start."""
        netns, sock = await self._around.namespaces.network_namespace_of(pidfd)
        sock.close()
        self._plugged[endpoint.id] = endpoint
        try:
            self._around.host.execute(rtnetlink.set_link(0, name=endpoint.host_interface, master=self._index, up=True))
        except NetlinkError as error:
            _log.warning("container %.12s lost its network interface: %s", container_id, error)
        return Sandbox(generate_id(), "bridge", netns, (endpoint,))

    async def release(self, sandbox: Sandbox) -> None:
        """Withdraw rules, unplug, let the kernel remove namespace and links, give back address and ports."""
        endpoint = sandbox.endpoints[0]
        try:
            await self.discard(endpoint)
        finally:
            if sandbox.netns is not None:
                sandbox.netns.close()

    async def discard(self, endpoint: Endpoint) -> None:
        """Undo all that the endpoint's row stands for."""
        if endpoint.ports and self._around.firewall is not None:
            try:
                await self._around.firewall.withdraw(endpoint.id)
            except OrlopError as error:
                _log.warning("cannot remove rules of endpoint %.12s: %s", endpoint.id, error)
        self._plugged.pop(endpoint.id, None)
        self._around.ports.release(endpoint.id)
        # off the bridge at once, so that its forwarding entry can't catch frames for the address's next owner
        self._execute_unless_gone(rtnetlink.set_link(0, name=endpoint.host_interface, up=False, master=0))
        self.addresses.release(ipaddress.IPv4Address(endpoint.address))
        self._around.records.delete_endpoint(endpoint.id)

    def delete_link(self, endpoint: Endpoint) -> None:
        """Remove the outer link itself (12 to 20 ms); the kernel does it by itself once the namespace is unused."""
        self._execute_unless_gone(rtnetlink.delete_link(name=endpoint.host_interface))

    def restore_endpoint(self, endpoint: Endpoint) -> tuple[PortRule, ...]:
        """Take address and host ports of a running container again; return its rules."""
        self.addresses.claim(ipaddress.IPv4Address(endpoint.address))
        requests = [
            _fixed_request(port.container_port, port.protocol, port.host_ip, port.host_port) for port in endpoint.ports
        ]
        try:
            self._around.ports.allocate(endpoint.id, requests, address=endpoint.address)
        except OrlopError as error:
            _log.warning("cannot hold ports of endpoint %.12s: %s", endpoint.id, error)
        return self._port_rules(endpoint)

    # --- parts ---

    def _reserve(
        self, endpoint_id: str, container_id: str, request: AttachRequest, undo: ExitStack, *, host_interface: str
    ) -> Endpoint:
        """Take address and ports and write the row; ``undo`` gives them back."""
        around = self._around
        if request.address:
            address = _chosen_address(request.address)
            self.addresses.claim(address)
        else:
            address = self.addresses.allocate()
        undo.callback(self.addresses.release, address)
        mac = ipam.parse_mac(request.mac) if request.mac else ipam.mac_of(address)
        endpoint = Endpoint(
            id=endpoint_id,
            network_id=self._network.id,
            network_name=self._network.name,
            address=str(address),
            prefix_length=self._subnet.prefixlen,
            gateway="" if self._network.internal else str(self._gateway),
            mac=ipam.show_mac(mac),
            interface=INTERFACE,
            host_interface=host_interface,
        )
        if request.ports and not self._network.internal:
            try:
                where = self._network.options.get(OPTION_HOST_BINDING, "")
                wanted = [port if port.host_ip else replace(port, host_ip=where) for port in request.ports]
                bindings = around.ports.allocate(endpoint_id, wanted, address=endpoint.address)
            except SystemFailureError as error:
                raise self._connectivity_error(endpoint, request.container_name, error) from error
            undo.callback(around.ports.release, endpoint_id)
            endpoint = replace(endpoint, ports=bindings)
        around.records.put_endpoint(container_id, endpoint)
        undo.callback(around.records.delete_endpoint, endpoint_id)
        return endpoint

    def _plug(self, ready: ReadyNamespace, endpoint: Endpoint) -> None:
        address = ipaddress.IPv4Interface(f"{endpoint.address}/{endpoint.prefix_length}")
        mtu = self._mtu if self._mtu != self._around.mtu else 0  # the pool's links have the engine's
        inside = [
            rtnetlink.set_link(ready.index, address=bytes.fromhex(endpoint.mac.replace(":", "")), mtu=mtu),
            rtnetlink.add_address(ready.index, address),
        ]
        if endpoint.gateway:
            inside.append(rtnetlink.add_route(None, index=ready.index, gateway=self._gateway))
        ready.inside.execute(*inside)
        host = self._around.host
        outside = [rtnetlink.set_link(ready.host_index, master=self._index, mtu=mtu)]
        if endpoint.ports:
            # with br_netfilter a connection to one's own published port is turned round inside the bridge
            outside.append(rtnetlink.set_port_hairpin(ready.host_index, enabled=True))
        try:
            host.execute(*outside)
        except NetlinkError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL, errno.ENOENT):
                raise
            self._repair()  # somebody removed the bridge
            outside[0] = rtnetlink.set_link(ready.host_index, master=self._index, mtu=mtu)
            host.execute(*outside)

    def _repair(self) -> None:
        """Make the bridge anew and plug every running container in again."""
        _log.warning("bridge %s was gone: making it anew", self._network.bridge_name)
        self.create()
        self.route_loopback()
        for endpoint in self._plugged.values():
            self._execute_unless_gone(rtnetlink.set_link(0, name=endpoint.host_interface, master=self._index, up=True))

    async def _publish(self, endpoint: Endpoint, container_name: str) -> None:
        if not endpoint.ports:
            return
        try:
            if self._around.firewall is None:
                raise SystemFailureError("published ports need firewall rules, which are switched off (iptables=false)")
            await self._around.firewall.publish(endpoint.id, self._port_rules(endpoint))
        except OrlopError as error:
            raise self._connectivity_error(endpoint, container_name, error) from error
        except asyncio.CancelledError:
            if self._around.firewall is not None:
                await self._around.firewall.withdraw(endpoint.id)
            raise

    def _port_rules(self, endpoint: Endpoint) -> tuple[PortRule, ...]:
        return tuple(
            PortRule(
                bridge=self._network.bridge_name,
                protocol=port.protocol,
                host_ip=port.host_ip,
                host_port=port.host_port,
                address=endpoint.address,
                container_port=port.container_port,
            )
            for port in endpoint.ports
        )

    def _connectivity_error(self, endpoint: Endpoint, container_name: str, error: OrlopError) -> SystemFailureError:
        name = f"{container_name} ({endpoint.id})"
        return SystemFailureError(f"driver failed programming external connectivity on endpoint {name}: {error}")

    def _execute_unless_gone(self, request: Request) -> None:
        try:
            self._around.host.execute(request)
        except NetlinkError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                _log.warning("%s", error)


def _is_ours(name: str) -> bool:
    return len(name) == 11 and name.startswith("veth") and all(char in "0123456789abcdef" for char in name[4:])


def _chosen_address(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise InvalidParameterError(f"invalid IPv4 address: {text}") from None


def _fixed_request(container_port: int, protocol: str, host_ip: str, host_port: int) -> PortRequest:
    return PortRequest(container_port, protocol, host_ip, host_port, host_port)
