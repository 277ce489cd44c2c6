"""What users ask for when they make a network, and what is refused of it, in Docker's words (threats.md G10)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from orlop.errors import ForbiddenError, InvalidParameterError, NotFoundError, UnavailableError, UnsupportedError
from orlop.network import gateway_modes
from orlop.network.interfaces import check_prefix
from orlop.network.networks import (
    BUILTIN,
    OPTION_ANTISPOOF,
    OPTION_BRIDGE_NAME,
    OPTION_CONF,
    OPTION_HOST_BINDING,
    OPTION_ICC,
    OPTION_INHIBIT_IPV4,
    OPTION_INTERFACE_PREFIX,
    OPTION_IPVLAN_FLAG,
    OPTION_IPVLAN_MODE,
    OPTION_MACVLAN_MODE,
    OPTION_MASQUERADE,
    OPTION_MTU,
    OPTION_PARENT,
    OPTION_TRUSTED_INTERFACES,
    IpAddress,
    IpNetwork,
    reserved_ends,
)
from orlop.network.options import check_interface_name
from orlop.spec.ports import check_host_ip
from orlop.spec.truth import find_bool

# dockerd's words for all that only a swarm has, overlay networks among it
NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm'
    " and try again."
)
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_CIDR = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}", re.ASCII)
_LONGEST_NAME = 255
_OPTIONS = {
    "bridge": (
        OPTION_BRIDGE_NAME,
        OPTION_ICC,
        OPTION_MASQUERADE,
        OPTION_HOST_BINDING,
        OPTION_INHIBIT_IPV4,
        *gateway_modes.OPTIONS.values(),
        OPTION_TRUSTED_INTERFACES,
        OPTION_MTU,
        OPTION_INTERFACE_PREFIX,
        OPTION_ANTISPOOF,
    ),
    "macvlan": (OPTION_PARENT, OPTION_MACVLAN_MODE),
    "cni": (OPTION_CONF,),
    "ipvlan": (OPTION_PARENT, OPTION_IPVLAN_MODE, OPTION_IPVLAN_FLAG),
}
OVERLAP = "Pool overlaps with other one on this address space"


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """A subnet that a user wants.

    Attributes:
        subnet: "10.1.0.0/16"; "" for one that the engine chooses.
        gateway: the bridge's own address in it, or "".
        ip_range: part of it that addresses are given out from, or "".
        auxiliary: name -> address that is never given out.
    """

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A network that a user wants.

    Attributes:
        config_only: only to make others from (``network.configurations``).
        config_from: name of such a one, or "".
        scope, ingress, ipam_driver, ipam_options: of which only the usual is supported.
    """

    name: str
    driver: str = "bridge"
    pools: tuple[PoolRequest, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    config_only: bool = False
    config_from: str = ""
    scope: str = ""
    ingress: bool = False
    ipam_driver: str = ""
    ipam_options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChosenPool:
    """A subnet of a request, checked."""

    subnet: IpNetwork
    gateway: IpAddress | None
    ip_range: IpNetwork | None = None
    auxiliary: dict[str, str] = field(default_factory=dict)


def check_name(request: NetworkRequest) -> None:
    """Raise an error in Docker's words for a name that no network of a user's can have."""
    if not _NAME.fullmatch(request.name) or len(request.name) > _LONGEST_NAME:
        raise InvalidParameterError(
            f"{request.name!r} includes invalid characters for a network name, "
            "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    if request.name in BUILTIN or request.name in ("default", "container"):
        raise ForbiddenError(f"operation is not permitted on predefined {request.name} network ")


def check_supported(request: NetworkRequest) -> None:
    """Raise an error for what no network here has. Raises NotFoundError, UnsupportedError."""
    if request.ipam_driver not in ("", "default"):
        raise NotFoundError(f'plugin "{request.ipam_driver}" not found')
    if request.scope not in ("", "local"):
        raise UnsupportedError(f"not supported: network scope {request.scope}")
    for refused, what in ((request.ingress, "ingress networks"), (request.ipam_options, "IPAM options")):
        if refused:
            raise UnsupportedError(f"{what} are not supported")


def check_request(request: NetworkRequest) -> None:
    """Raise an error in Docker's words for a request that cannot be."""
    check_name(request)
    check_supported(request)
    if not request.ipv4 and not request.ipv6:
        raise InvalidParameterError("IPv4 or IPv6 must be enabled")
    if request.driver not in _OPTIONS:
        _refuse_driver(request.driver)
    unknown = sorted(request.options.keys() - set(_OPTIONS[request.driver]))
    if unknown:
        raise InvalidParameterError(f"unknown option of the {request.driver} driver: {unknown[0]!r}")
    if request.driver == "cni":
        _check_cni(request)
    elif request.driver == "bridge":
        _check_bridge(request)
    else:
        _check_sublink(request)


def _check_cni(request: NetworkRequest) -> None:
    if not request.options.get(OPTION_CONF):
        raise UnsupportedError("the cni driver needs a list of plugins: -o conf=/etc/cni/net.d/10-net.conflist")
    if request.pools or request.ipv6 or request.internal:
        raise InvalidParameterError("addresses of a cni network are its plugins' affair")


def _check_bridge(request: NetworkRequest) -> None:
    if OPTION_BRIDGE_NAME in request.options:
        check_interface_name(request.options[OPTION_BRIDGE_NAME])
    gateway_modes.check_modes(request.options, internal=request.internal)
    gateway_modes.check_trusted(request.options)
    check_prefix(request.options.get(OPTION_INTERFACE_PREFIX, ""), OPTION_INTERFACE_PREFIX)
    for option in (OPTION_ICC, OPTION_MASQUERADE, OPTION_INHIBIT_IPV4, OPTION_ANTISPOOF):
        value = request.options.get(option, "true")
        if find_bool(value) is None:
            syntax = f"strconv.ParseBool: parsing {_quoted(value)}: invalid syntax"
            raise InvalidParameterError(f"failed to parse {option} value: {_shown(value)} ({syntax})")
    binding = request.options.get(OPTION_HOST_BINDING, "")
    try:
        bad = ":" in check_host_ip(binding)
    except InvalidParameterError:
        bad = True
    if bad:
        raise InvalidParameterError(f"failed to parse {OPTION_HOST_BINDING} value: {binding} (nil ip)")
    mtu = request.options.get(OPTION_MTU, "1500")
    if not re.fullmatch(r"[0-9]{1,5}", mtu, re.ASCII) or not 68 <= int(mtu) <= 65535:
        syntax = f"strconv.Atoi: parsing {_quoted(mtu)}: invalid syntax"
        if re.fullmatch(r"[+-]?[0-9]+", mtu, re.ASCII):
            syntax = "from 68 to 65535"
        raise InvalidParameterError(f"failed to parse {OPTION_MTU} value: {_shown(mtu)} ({syntax})")
    if request.ipv6 and int(mtu) < 1280:
        raise InvalidParameterError(f"invalid value of {OPTION_MTU}: {mtu!r}: IPv6 needs at least 1280")


def _check_sublink(request: NetworkRequest) -> None:
    """Check the options of macvlan and ipvlan."""
    try:
        check_interface_name(request.options.get(OPTION_PARENT, "eth0"))
    except InvalidParameterError:
        raise InvalidParameterError(f"invalid parent interface: {request.options[OPTION_PARENT]!r}") from None
    if request.options.get(OPTION_PARENT) == "lo":
        raise InvalidParameterError(f"loopback interface is not a valid {request.driver} parent link")
    for option, known in (
        (OPTION_MACVLAN_MODE, ("bridge", "private", "vepa", "passthru")),
        (OPTION_IPVLAN_MODE, ("l2", "l3", "l3s")),
        (OPTION_IPVLAN_FLAG, ("bridge", "private", "vepa")),
    ):
        value = request.options.get(option, known[0])
        if value not in known:
            raise InvalidParameterError(
                f"requested {option.replace('_', ' ')} '{value}' is not valid, '{known[0]}' mode is the"
                f" {request.driver} driver default"
            )


def _refuse_driver(name: str) -> None:
    if name in ("host", "null"):
        raise ForbiddenError(f'only one instance of "{name}" network is allowed')
    if name == "overlay":
        raise UnavailableError(NOT_A_MANAGER)
    if _NAME.fullmatch(name) is None:
        raise InvalidParameterError(f"invalid network driver: {name!r}")
    raise NotFoundError(f'plugin "{name}" not found')


def _shown(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if text.isprintable() else repr(text)


def check_pools(request: NetworkRequest) -> dict[int, list[ChosenPool]]:
    """Return the chosen subnets by IP version; versions that the engine is to choose for are left out.

    Raises:
        InvalidParameterError: in Docker's words.
        ForbiddenError: several of one version, where the driver takes one only, or they overlap.
    """
    found: dict[int, list[ChosenPool]] = {}
    for pool in request.pools:
        if not pool.subnet:
            if pool.gateway or pool.ip_range or pool.auxiliary:
                raise InvalidParameterError("invalid network config:\ninvalid subnet : invalid CIDR block notation")
            continue
        chosen = check_pool(pool)
        before = found.get(chosen.subnet.version, [])
        if before and request.driver == "bridge":
            raise ForbiddenError("bridge driver doesn't support multiple subnets")
        if any(chosen.subnet.overlaps(other.subnet) for other in before):
            raise ForbiddenError(OVERLAP)
        if chosen.subnet.version == 6 and not request.ipv6:
            continue  # as Docker: without --ipv6 the subnet is left aside
        if chosen.subnet.version == 4 and not request.ipv4:
            raise InvalidParameterError("IPv4 pools are not allowed when IPv4 is disabled")
        found[chosen.subnet.version] = [*before, chosen]
    return found


def check_pool(pool: PoolRequest) -> ChosenPool:
    """Return a subnet with all that is to be in it. Raises InvalidParameterError in Docker's words."""
    head = "invalid network config:\n"
    loose = _parse_cidr(pool.subnet)
    if loose is None:
        raise InvalidParameterError(f"{head}invalid subnet {pool.subnet}: invalid CIDR block notation")
    if str(loose.network_address) != str(ipaddress.ip_address(pool.subnet.partition("/")[0])):
        raise InvalidParameterError(f"{head}invalid subnet {pool.subnet}: it should be {loose}")
    if loose.is_multicast or loose.is_loopback or int(loose.network_address) >> (loose.max_prefixlen - 8) == 0:
        raise InvalidParameterError(f"{head}invalid subnet {pool.subnet}: not for hosts")
    taken = {*reserved_ends(loose)}
    gateway = _inside(pool.gateway, loose, "gateway") if pool.gateway else _first_free(loose)
    _take(gateway, taken, "gateway", str(gateway))
    ip_range = _check_range(pool.ip_range, loose) if pool.ip_range else None
    auxiliary: dict[str, str] = {}
    for name, text in pool.auxiliary.items():
        address = _inside(text, loose, "auxiliary address")
        auxiliary[_aux_name(name)] = str(address)
        _take(address, taken, "secondary ip address", f"{name}:{address}")
    return ChosenPool(loose, gateway, ip_range, auxiliary)


def _take(address: IpAddress, taken: set[IpAddress], what: str, shown: str) -> None:
    if address in taken:
        raise InvalidParameterError(f"failed to allocate {what} ({shown}): Address already in use")
    taken.add(address)


def _parse_cidr(text: str) -> IpNetwork | None:
    """Return the network of an address with a prefix length behind it, None for all else (a netmask, say)."""
    if _CIDR.fullmatch(text) is None:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _first_free(subnet: IpNetwork) -> IpAddress:
    found = subnet.network_address + (subnet.network_address in reserved_ends(subnet))
    if found not in subnet:
        raise InvalidParameterError("failed to allocate gateway (): no available addresses on this pool")
    return found


def _inside(text: str, subnet: IpNetwork, what: str) -> IpAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameterError(f"invalid network config:\ninvalid {what} {text}: invalid address") from None
    if address.version != subnet.version or address not in subnet:
        raise InvalidParameterError(
            f"invalid network config:\ninvalid {what} {address}: parent subnet {subnet} doesn't contain this address"
        )
    return address


def _aux_name(name: str) -> str:
    if _NAME.fullmatch(name) is None or len(name) > _LONGEST_NAME:
        raise InvalidParameterError(f"invalid name of an auxiliary address: {name!r}")
    return name


def _check_range(text: str, subnet: IpNetwork) -> IpNetwork:
    head = f"invalid network config:\ninvalid ip-range {text}: "
    found = _parse_cidr(text)
    if found is None:
        raise InvalidParameterError(f"{head}invalid CIDR block notation")
    if found.version == subnet.version and found.prefixlen < subnet.prefixlen:
        raise InvalidParameterError(f"{head}CIDR block is bigger than its parent subnet {subnet}")
    if found.network_address != ipaddress.ip_address(text.partition("/")[0]):
        raise InvalidParameterError(f"{head}it should be {found}")
    if (
        isinstance(found, ipaddress.IPv4Network)
        and isinstance(subnet, ipaddress.IPv4Network)
        and found.subnet_of(subnet)
    ):
        return found
    if (
        isinstance(found, ipaddress.IPv6Network)
        and isinstance(subnet, ipaddress.IPv6Network)
        and found.subnet_of(subnet)
    ):
        return found
    raise InvalidParameterError(f"{head}parent subnet {subnet} doesn't contain ip-range")
