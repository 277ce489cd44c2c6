"""What the user asks of each network of a container: checked, and turned into wishes to the network service."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import msgspec

from orlop.errors import InvalidParameterError
from orlop.network.bandwidth import (
    ANNOTATIONS,
    EGRESS,
    EGRESS_BURST,
    INGRESS,
    INGRESS_BURST,
    OPTIONS,
    from_annotations,
    parse_options,
)
from orlop.network.interface_sysctls import OPTION_SYSCTLS, parse_sysctls
from orlop.network.interfaces import OPTION_NAME, check_clashes, check_name
from orlop.network.sandbox import EndpointWish, NameServerWish
from orlop.spec.docker.containers import EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.engine.containers.records import Definition
    from orlop.spec.docker.containers import IpamConfig

_PREDEFINED = frozenset({"bridge", "default", "host", "none"})
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?", re.ASCII)
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", re.ASCII)
_OPTIONS = (*OPTIONS, OPTION_NAME, OPTION_SYSCTLS)
_MOST_NAMES = 256
_MOST_LINK_LOCAL = 16


def is_user_defined(mode: str) -> bool:
    """Tell whether a NetworkMode names a network that a user made (runconfig's IsUserDefined)."""
    return mode not in _PREDEFINED and mode != "" and not mode.startswith("container:")


def check_endpoint(name: str, wanted: EndpointConfig | None) -> None:
    """Refuse what no network could give, whichever it is (dockerd's validateEndpointSettings).

    Raises:
        InvalidParameterError: all that is wrong, in Docker's words.
    """
    if wanted is None:
        return
    wrong: list[str] = []
    ipam = wanted.ipam_config
    if not is_user_defined(name):
        if ipam is not None and (ipam.i_pv4_address or ipam.i_pv6_address):
            wrong.append("user specified IP address is supported on user defined networks only")
        if wanted.aliases:
            wrong.append("network-scoped alias is supported only for containers in user defined networks")
    wrong += _wrong_addresses(ipam)
    if wanted.mac_address and (_MAC.fullmatch(wanted.mac_address) is None or int(wanted.mac_address[:2], 16) & 1):
        wrong.append(f"invalid MAC address: {wanted.mac_address}")
    names = wanted.aliases or []
    wrong += [f"invalid alias: {alias!r}" for alias in names if _NAME.fullmatch(alias) is None]
    if len(names) > _MOST_NAMES or len(wanted.links or []) > _MOST_NAMES:
        wrong.append("too many aliases or links")
    options = wanted.driver_opts or {}
    wrong += [f"unknown driver option: {name!r}" for name in options if name not in _OPTIONS]
    for check in (
        lambda: parse_options(options),
        lambda: check_name(options.get(OPTION_NAME, "")),
        lambda: parse_sysctls(options[OPTION_SYSCTLS]) if OPTION_SYSCTLS in options else None,
        lambda: [*map(parse_link, wanted.links or [])],
    ):
        try:
            check()
        except InvalidParameterError as error:
            wrong.append(str(error))
    if len(wrong) == 1:
        raise InvalidParameterError(f"invalid endpoint settings:\n{wrong[0]}")
    if wrong:
        raise InvalidParameterError("invalid endpoint settings:\n" + "\n".join(f"* {text}" for text in wrong))


def check_together(networks: Mapping[str, EndpointConfig | None]) -> None:
    """Refuse what no two endpoints of a container can have. Raises InvalidParameterError."""
    try:
        check_clashes(wanted.driver_opts or {} for wanted in networks.values() if wanted is not None)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"invalid endpoint settings:\n{error}") from error


def _wrong_addresses(ipam: IpamConfig | None) -> list[str]:
    if ipam is None:
        return []
    wrong = []
    for text, version in ((ipam.i_pv4_address, 4), (ipam.i_pv6_address, 6)):
        if not text:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            address = None
        if address is None or address.version != version or "%" in text:
            wrong.append(f"invalid IPv{version} address: {text}")
    local = ipam.link_local_i_ps or []
    wrong += [f"invalid link-local IP address: {text}" for text in local if not _is_address(text) or "%" in text]
    if len(local) > _MOST_LINK_LOCAL:
        wrong.append("too many link-local IP addresses")
    return wrong


def parse_link(text: str) -> tuple[str, str]:
    """Return the container's name and the alias of ``name:alias`` or ``name``, without the old slashes.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    name, colon, alias = text.partition(":")
    name = name.removeprefix("/")
    alias = alias.rpartition("/")[2] if colon else name
    if not name or not alias or ":" in alias:
        raise InvalidParameterError(f"bad format for links: {text}")
    if _NAME.fullmatch(name) is None or _NAME.fullmatch(alias) is None:
        raise InvalidParameterError(f"bad format for links: {text!r}")
    return name, alias


def with_mac(name: str, wanted: EndpointConfig | None, mac: str) -> EndpointConfig:
    """Give the main network the MAC address that was chosen for the whole container.

    Raises:
        InvalidParameterError: it is none, or the network was given another one.
    """
    wanted = wanted or EndpointConfig()
    if wanted.mac_address not in {"", mac}:
        raise InvalidParameterError(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network,"
            " or be left empty"
        )
    result = msgspec.structs.replace(wanted, mac_address=mac)
    try:
        check_endpoint(name, result)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"invalid config for network {name}: {error}") from error
    return result


def dns_names(definition: Definition, wanted: EndpointConfig | None) -> tuple[str, ...]:
    """Return what others on a user-defined network call a container, its own name first."""
    own = definition.config.hostname
    names = [definition.name, *(wanted.aliases or [] if wanted is not None else ()), definition.id[:12]]
    if own and _NAME.fullmatch(own):
        names.append(own)
    return tuple(dict.fromkeys(names))


def wish_of(definition: Definition, network: str, wanted: EndpointConfig | None) -> EndpointWish:
    """Return what the network service is to give a container on one network."""
    mac = definition.config.mac_address if network == definition.host.network_mode else ""
    options = from_annotations(definition.host.annotations or {})
    if wanted is None:
        return EndpointWish(network, mac=mac, names=dns_names(definition, None), options=options)
    ipam = wanted.ipam_config
    return EndpointWish(
        network,
        address=ipam.i_pv4_address if ipam is not None else "",
        address6=ipam.i_pv6_address if ipam is not None else "",
        mac=wanted.mac_address or mac,
        names=dns_names(definition, wanted),
        links=tuple((alias, name) for name, alias in map(parse_link, wanted.links or [])),
        priority=wanted.gw_priority,
        options={**options, **(wanted.driver_opts or {})},
        link_local=tuple(dict.fromkeys(ipam.link_local_i_ps or [])) if ipam is not None else (),
    )


def name_server_wish(host_servers: Sequence[str], chosen: Sequence[str]) -> NameServerWish:
    """Return where a container's own questions go: ``--dns``, else the host's name servers.

    Those on the host's loopback are asked from the host, as Docker does; a chosen one is the container's affair.
    """
    if chosen:
        return NameServerWish(tuple(chosen))
    on_host = [server for server in host_servers if _is_loopback(server)]
    return NameServerWish(tuple(server for server in host_servers if _is_address(server)), tuple(on_host))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text.partition("%")[0]).is_loopback


def change_bandwidth(annotations: dict[str, str] | None, changes: dict[str, str], *, mode: str) -> dict[str, str]:
    """Return a container's annotations with other rates; an empty value takes a limit away.

    Raises:
        InvalidParameterError: no rate, or an annotation that cannot change while the container exists.
    """
    for name in changes:
        if name not in ANNOTATIONS:
            raise InvalidParameterError(f"annotation cannot be updated: {name}")
    merged = {**(annotations or {}), **changes}
    check_bandwidth(merged, mode)
    return {name: value for name, value in merged.items() if value or name not in ANNOTATIONS}


def without_rates(
    networks: Mapping[str, EndpointConfig | None], changes: Mapping[str, str]
) -> dict[str, EndpointConfig | None]:
    """Return a container's networks without the rates of their own that annotations change for all of them."""
    gone = {ANNOTATIONS[name] for name in changes if name in ANNOTATIONS}
    return {
        name: msgspec.structs.replace(
            wanted, driver_opts={key: value for key, value in wanted.driver_opts.items() if key not in gone} or None
        )
        if gone and wanted is not None and wanted.driver_opts
        else wanted
        for name, wanted in networks.items()
    }


def check_bandwidth(annotations: dict[str, str] | None, mode: str) -> None:
    """Refuse annotations of bandwidth that are no rates, or for a network that is not the container's own.

    Raises:
        InvalidParameterError: what is wrong.
    """
    options = from_annotations(annotations or {})
    parse_options(options)
    if options and (mode == "host" or mode.startswith("container:")):
        raise InvalidParameterError(f"bandwidth cannot be limited with network mode {mode.partition(':')[0]}")


def check_bursts(annotations: dict[str, str] | None, networks: Mapping[str, EndpointConfig | None]) -> None:
    """Refuse bursts where no rate is held on any network. Raises InvalidParameterError."""
    shared = from_annotations(annotations or {})
    every = [shared, *(wanted.driver_opts or {} for wanted in networks.values() if wanted is not None)]
    for rate, burst in ((EGRESS, EGRESS_BURST), (INGRESS, INGRESS_BURST)):
        if any(options.get(burst) for options in every) and not any(options.get(rate) for options in every):
            raise InvalidParameterError(f"a burst needs a rate: {burst}")
