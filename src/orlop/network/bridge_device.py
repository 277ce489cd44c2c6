"""The bridge itself: made, put in order, found again, removed."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError
from orlop.network.bandwidth import ifb_name
from orlop.network.gateway_modes import ISOLATED, mode_of
from orlop.network.networks import OPTION_INHIBIT_IPV4
from orlop.network.sysctl import protect_bridge, route_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.kernel.netlink import Request
    from orlop.kernel.rtnetlink import IpInterface, Link, Rtnetlink
    from orlop.network.firewall.antispoof import SpoofGuard
    from orlop.network.firewall.contract import Firewall
    from orlop.network.networks import Network
    from orlop.network.pool import NamespaceFactory, NamespacePool
    from orlop.network.ports import PortAllocator
    from orlop.network.records import Records

ALIAS = "orlop"
_LINK_LOCAL = ipaddress.IPv6Interface("fe80::1/64")  # as Docker's bridges have
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all networks of an engine share.

    Attributes:
        host: rtnetlink in the engine's own namespace.
        firewall: None when the administrator switched rules off.
        guard: keeps containers of networks that want it from passing for others.
        direct_routing: see NetworkOptions.
        crossing: see NetworkOptions.allow_published_between_networks.
        ip_forward: likewise.
    """

    host: Rtnetlink
    records: Records
    ports: PortAllocator
    pool: NamespacePool
    namespaces: NamespaceFactory
    firewall: Firewall | None
    guard: SpoofGuard
    mtu: int
    direct_routing: bool = False
    crossing: bool = False
    ip_forward: bool = True

    def execute_unless_gone(self, request: Request) -> None:
        """Ask for a change; whatever it is about may be gone."""
        try:
            self.host.execute(request)
        except NetlinkError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                _log.warning("%s", error)


class BridgeDevice:
    """The bridge of one network.

    Attributes:
        index: its number, once it was made or found.
    """

    def __init__(self, network: Network, around: Surroundings, *, mtu: int) -> None:
        self._network = network
        self._around = around
        self._mtu = mtu
        isolated = {version for version in (4, 6) if mode_of(network.options, version) == ISOLATED}
        self._addressed = 4 not in isolated and not network.flag(OPTION_INHIBIT_IPV4, default="false")
        self._subnet6 = network.subnet6 if 6 not in isolated else ""  # that the bridge itself has a part in
        self.index = 0

    def create(self) -> None:
        """Make the bridge, or take the one of that name; put it in order and switch it on.

        The administrator's own, whose addresses are to stay (``inhibit_ipv4``), is in order as it is.

        Raises:
            SystemFailureError: the kernel refused, or the name belongs to something that is no bridge.
        """
        host, name = self._around.host, self._network.bridge_name
        try:
            link = host.find_link(name)
            if link is None:
                # a fixed address of its own: else the bridge's changes whenever a port comes or goes
                mac = b"\x02\x42" + os.urandom(4)
                host.execute(
                    rtnetlink.add_bridge(name, address=mac, mtu=self._mtu),
                    rtnetlink.set_link(0, name=name, alias=ALIAS),
                )
                link = host.link(name)
            if link.kind != "bridge":
                raise SystemFailureError(f"interface {name} exists and is not a bridge: {link.kind or 'hardware'}")
            self.index = link.index
            if not self._addressed and not self._is_own(link):
                self._set_addresses(clear=False)
                host.execute(rtnetlink.set_link(link.index, up=True))
                return
            if link.stp:
                host.execute(rtnetlink.set_bridge_stp(link.index, enabled=False))
            protect_bridge(name, ipv6=bool(self._subnet6))
            self._set_addresses()
            host.execute(rtnetlink.set_link(link.index, up=True, mtu=self._mtu))
        except OSError as error:
            raise SystemFailureError(f"failed to set up bridge {name}: {error}") from error

    def _set_addresses(self, *, clear: bool = True) -> None:
        network, host = self._network, self._around.host
        wanted: list[IpInterface] = []
        if network.gateway and self._addressed:
            length = ipaddress.IPv4Network(network.subnet).prefixlen
            wanted.append(ipaddress.IPv4Interface(f"{network.gateway}/{length}"))
        if network.gateway6 and self._subnet6:
            length = ipaddress.IPv6Network(self._subnet6).prefixlen
            wanted += [ipaddress.IPv6Interface(f"{network.gateway6}/{length}"), _LINK_LOCAL]
        for address in host.addresses(self.index):
            stale = address.interface not in wanted and not address.interface.ip.is_link_local
            if stale and clear and (self._addressed or address.interface.version == 6):
                host.execute(rtnetlink.delete_address(self.index, address.interface))
        if wanted:
            host.execute(*(rtnetlink.add_address(self.index, interface, replace=True) for interface in wanted))

    def route_loopback(self) -> None:
        """Let the host's own loopback connections in; after the firewall's rules are in force."""
        if self._around.firewall is not None:
            route_loopback(self._network.bridge_name)

    def remove(self) -> None:
        """Remove the bridge; one that is gone is no error, and one that was there before the network stays."""
        try:
            link = self._around.host.find_link(self._network.bridge_name)
        except NetlinkError as error:
            raise SystemFailureError(f"failed to remove bridge {self._network.bridge_name}: {error}") from error
        if link is not None and self._is_own(link):
            self._around.execute_unless_gone(rtnetlink.delete_link(link.index))

    def _is_own(self, link: Link) -> bool:
        """Tell whether an engine made the bridge: its alias says so, or a name that nobody else would choose."""
        return link.alias == ALIAS or link.name == f"br-{self._network.id[:12]}"

    def remove_strays(self, known: Iterable[str]) -> None:
        """Remove ports of ours that are not known."""
        keep = set(known)
        for link in self._around.host.links(master=self.index):
            if link.kind == "veth" and is_ours(link.name) and link.name not in keep:
                self._around.execute_unless_gone(rtnetlink.delete_link(link.index))
                self._around.execute_unless_gone(rtnetlink.delete_link(name=ifb_name(link.name)))

    def plug(self, name: str) -> None:
        """Make the link of that name a port again. Raises NetlinkError."""
        self._around.host.execute(rtnetlink.set_link(0, name=name, master=self.index, up=True))

    def repair(self, ports: Iterable[str]) -> None:
        """Make the bridge anew and plug every running container in again."""
        _log.warning("bridge %s was gone: making it anew", self._network.bridge_name)
        self.create()
        self.route_loopback()
        for name in ports:
            self._around.execute_unless_gone(rtnetlink.set_link(0, name=name, master=self.index, up=True))


def is_ours(name: str) -> bool:
    """Tell whether a link's name is of the form of a container's outer end."""
    return len(name) == 11 and name.startswith("veth") and all(char in "0123456789abcdef" for char in name[4:])
