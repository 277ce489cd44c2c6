"""Which networks there are."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, ForbiddenError, InvalidParameterError, NotFoundError
from orlop.network import cni, ipam, networks, placement
from orlop.network.configurations import apply_configuration, check_combination, make_configuration
from orlop.network.gateway_modes import ISOLATED, mode_of
from orlop.network.networks import Network
from orlop.network.options import AddressPool, check_bip6, check_interface_name
from orlop.network.requests import OVERLAP, ChosenPool, check_name, check_pools, check_request, check_supported
from orlop.spec.ids import generate_id, is_id_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.kernel.rtnetlink import Rtnetlink
    from orlop.network.options import NetworkOptions
    from orlop.network.records import Records
    from orlop.network.requests import NetworkRequest


class Catalogue:
    """The networks: "bridge", "host" and "none", which are always there, and those that users defined.

    Attributes:
        default: the default bridge network, or None when it is switched off.
        prefix: of the names of firewall chains.
        warnings: what the administrator should know.
    """

    def __init__(self, options: NetworkOptions, records: Records) -> None:
        self._options = options
        self._records = records
        self._networks: dict[str, Network] = {}
        self.default: Network | None = None
        self.prefix = "DOCKER"
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[Network]:
        return iter(list(self._networks.values()))

    def load(self, host: Rtnetlink, *, keep: bool) -> None:
        """Read the recorded networks, add those that are always there, find a place for the default bridge.

        Args:
            host: rtnetlink in the engine's namespace.
            keep: containers run: the default bridge stays where it is.
        """
        recorded = {network.name: network for network in self._records.networks()}
        for name, driver in networks.BUILTIN.items():
            known = recorded.pop(name, None)
            network = Network(
                id=known.id if known else generate_id(),
                name=name,
                driver=driver,
                created_at=known.created_at if known else time.time_ns(),
                subnet6=known.subnet6 if known and self._options.ipv6 else "",
                gateway6=known.gateway6 if known and self._options.ipv6 else "",
            )
            if name == "bridge":
                if self._options.bridge == "none":
                    continue
                place = placement.place_default_bridge(self._options, host, known, keep=keep)
                self.warnings += [place.warning] if place.warning else []
                self.prefix = place.prefix
                self.default = network = self._placed(network, place)
            if network != known:
                self._records.put_network(network)
            self._networks[network.id] = network
        self._networks.update({network.id: network for network in recorded.values()})
        if self.default is not None and self._options.ipv6:
            self._add_ipv6(self.default, host)

    def _add_ipv6(self, network: Network, host: Rtnetlink) -> None:
        """Give the default network an IPv6 subnet: the administrator's, the one that it had, or a free one."""
        options, ip_range = self._options, ""
        if options.bip6:
            gateway = check_bip6(options.bip6)
            fixed = options.fixed_cidr_v6
            ip_range = fixed if fixed and ipaddress.IPv6Network(fixed) != gateway.network else ""
        else:
            text = options.fixed_cidr_v6 or network.subnet6
            subnet = ipaddress.ip_network(text) if text else self._pools(6, [], host)[0].subnet
            gateway = ipaddress.IPv6Interface(f"{subnet[1]}/{subnet.prefixlen}")
        auxiliary = _way_out(networks.AUX_GATEWAY6, options.default_gateway_v6, gateway)
        self.default = replace(
            network,
            subnet6=str(gateway.network),
            gateway6=str(gateway.ip),
            ip_range6=ip_range,
            auxiliary={**network.auxiliary, **auxiliary},
        )
        self._networks[network.id] = self.default
        self._records.put_network(self.default)

    def _placed(self, network: Network, place: placement.Placement) -> Network:
        options = {
            networks.OPTION_DEFAULT_BRIDGE: "true",
            networks.OPTION_ICC: str(self._options.icc).lower(),
            networks.OPTION_MASQUERADE: str(self._options.ip_masq).lower(),
            networks.OPTION_HOST_BINDING: self._options.default_ip,
            networks.OPTION_BRIDGE_NAME: place.bridge,
            networks.OPTION_MTU: str(self._options.mtu),
        }
        gateway = place.gateway
        fixed = self._options.fixed_cidr
        ip_range = fixed if fixed and ipaddress.IPv4Network(fixed) != gateway.network else ""
        return replace(
            network,
            subnet=str(gateway.network),
            gateway=str(gateway.ip),
            ip_range=ip_range,
            options=options,
            auxiliary=_way_out(networks.AUX_GATEWAY, self._options.default_gateway, gateway),
        )

    def find(self, name_or_id: str) -> Network:
        """Return a network by name, full id or unique beginning of an id.

        Raises:
            NotFoundError: in Docker's words.
            InvalidParameterError: several ids begin like that.
        """
        for network in self:
            if name_or_id in (network.name, network.id):
                return network
        found = [network for network in self if is_id_prefix(name_or_id) and network.id.startswith(name_or_id)]
        if len(found) > 1:
            count = f"{len(found)} matches found based on ID prefix"
            raise InvalidParameterError(f"network {name_or_id} is ambiguous ({count})")
        if not found:
            raise NotFoundError(f"network {name_or_id} not found")
        return found[0]

    def get(self, network_id: str) -> Network | None:
        """Return the network of that full id."""
        return self._networks.get(network_id)

    def plan(self, request: NetworkRequest, host: Rtnetlink) -> Network:
        """Return the network that a request describes, with a subnet, without recording it.

        Raises:
            OrlopError: in Docker's words.
        """
        check_name(request)
        if any(network.name == request.name for network in self):
            raise ConflictError(f"network with name {request.name} already exists")
        check_combination(request)
        if request.config_from:
            request = apply_configuration(self, request)
        else:
            defaults = self._options.default_network_opts.get(request.driver, {})
            request = replace(request, options={**defaults, **request.options})
        if request.config_only:
            check_supported(request)
            return make_configuration(request)
        check_request(request)
        chosen = check_pools(request)
        own = request.driver == "cni"  # its plugins give addresses out
        document = cni.read_configuration(request.options[networks.OPTION_CONF]) if own else ""
        (four, *fours) = self._pools(4, chosen.get(4, []), host) if request.ipv4 and not own else (None,)
        (six, *sixes) = self._pools(6, chosen.get(6, []), host) if request.ipv6 else (None,)
        network = Network(
            id=generate_id(),
            name=request.name,
            driver=request.driver,
            created_at=time.time_ns(),
            subnet=str(four.subnet) if four else "",
            gateway=str(four.gateway) if four and not _isolated(request, 4) else "",
            ip_range=str(four.ip_range or "") if four else "",
            internal=request.internal,
            attachable=request.attachable,
            options=dict(request.options),
            labels=dict(request.labels),
            subnet6=str(six.subnet) if six else "",
            gateway6=str(six.gateway) if six and not _isolated(request, 6) else "",
            ip_range6=str(six.ip_range or "") if six else "",
            auxiliary={**(four.auxiliary if four else {}), **(six.auxiliary if six else {})},
            chosen=bool(chosen),
            document=document,
            more_pools=tuple(
                (str(more.subnet), str(more.gateway or ""), str(more.ip_range or ""), more.auxiliary)
                for more in (*fours, *sixes)
                if more is not None
            ),
            config_from=request.config_from,
        )
        using = [other for other in self if network.parent and other.parent == network.parent]
        if using:
            raise ForbiddenError(f"network {using[0].name} is already using parent interface {network.parent}")
        name = check_interface_name(network.bridge_name)
        if any(name == other.bridge_name for other in self if other.driver == "bridge"):
            raise ForbiddenError(f"bridge name {name} is in use by another network")
        return network

    def _pools(self, version: int, chosen: list[ChosenPool], host: Rtnetlink) -> list[ChosenPool]:
        """Return the chosen subnets, which overlap no other network's, or a free one of the pools."""
        there = [network for network in self if not network.config_only]
        every = [ipaddress.ip_network(pool.subnet) for other in there for pool in other.pools]
        others = [subnet for subnet in every if subnet.version == version]
        if chosen:
            if any(pool.subnet.overlaps(other) for pool in chosen for other in others):
                raise ForbiddenError(OVERLAP)
            return chosen
        pools = [pool for pool in self._options.default_address_pools if (":" in pool.base) == (version == 6)]
        if version == 6 and not pools:
            pools = [self._unique_local_pool()]
        subnet = ipam.choose_subnet(pools, [*placement.occupied_ranges(host, version=version), *others])
        return [ChosenPool(subnet, subnet[1])]

    def _unique_local_pool(self) -> AddressPool:
        """Return this engine's own range of unique local addresses (RFC 4193): it stays the same, others' differ."""
        seed = next(network.id for network in self if network.name == "none")
        packed = b"\xfd" + hashlib.sha256(seed.encode()).digest()[:5] + bytes(10)
        return AddressPool(f"{ipaddress.IPv6Address(packed)}/48", 64)

    def add(self, network: Network) -> None:
        """Show a network that was made; its row is written already."""
        self._networks[network.id] = network

    def hide(self, network: Network) -> None:
        """Show a network that is going no more; its row is deleted last."""
        self._networks.pop(network.id, None)


def _isolated(request: NetworkRequest, version: int) -> bool:
    """Tell whether a network has no gateway of an IP version, and none was named."""
    named = any(pool.gateway and (":" in pool.gateway) == (version == 6) for pool in request.pools)
    return request.driver == "bridge" and mode_of(request.options, version) == ISOLATED and not named


def _way_out(name: str, text: str, bridge: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> dict[str, str]:
    """Return the auxiliary address that takes the bridge's place as gateway. Raises InvalidParameterError."""
    if not text or ipaddress.ip_address(text) == bridge.ip:
        return {}
    if ipaddress.ip_address(text) not in bridge.network:
        raise InvalidParameterError(f"default gateway {text} is not in the default bridge's subnet {bridge.network}")
    return {name: text}
