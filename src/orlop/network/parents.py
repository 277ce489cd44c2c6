"""Parent interfaces of macvlan and ipvlan networks that are made for them: VLANs, and links that lead nowhere."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.kernel import rtnetlink
from orlop.kernel.netlink import NetlinkError
from orlop.network.bridge_device import ALIAS
from orlop.network.networks import OPTION_PARENT

if TYPE_CHECKING:
    from orlop.kernel.netlink import Request
    from orlop.kernel.rtnetlink import Link, Rtnetlink
    from orlop.network.networks import Network

_KINDS = ("vlan", "dummy")


def is_missing(host: Rtnetlink, network: Network) -> bool:
    """Tell whether a network's parent has to be made. Raises SystemFailureError."""
    return find_link(host, network.parent) is None


def check(host: Rtnetlink, network: Network) -> None:
    """Raise InvalidParameterError, in Docker's words, for a missing parent that cannot be made."""
    if OPTION_PARENT in network.options:
        base, _ = _split(network.parent)
        if find_link(host, base) is None:
            raise InvalidParameterError(f"-o parent interface was not found on the host: {base}")


def make(host: Rtnetlink, network: Network) -> None:
    """Make a network's parent and switch it on.

    Raises:
        InvalidParameterError: it is no name of a VLAN of an interface that is there, in Docker's words.
        SystemFailureError: the kernel refused.
    """
    check(host, network)
    name = network.parent
    try:
        host.execute(_request(host, network))
        try:
            host.execute(rtnetlink.set_link(0, name=name, alias=ALIAS, up=True))
        except OSError:
            host.execute(rtnetlink.delete_link(name=name))
            raise
    except OSError as error:
        raise SystemFailureError(f"failed to create {name} for network {network.name}: {error}") from error


def remove(host: Rtnetlink, network: Network) -> None:
    """Remove a parent that was made for a network; one that is gone, or somebody else's by now, is no error."""
    link = find_link(host, network.parent)
    if link is None or link.alias != ALIAS or link.kind not in _KINDS:
        return
    try:
        host.execute(rtnetlink.delete_link(link.index))
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise SystemFailureError(f"failed to delete {network.parent}: {error}") from error


def _request(host: Rtnetlink, network: Network) -> Request:
    if OPTION_PARENT not in network.options:
        return rtnetlink.add_dummy(network.parent)
    base, number = _split(network.parent)
    return rtnetlink.add_vlan(network.parent, host.link(base).index, number)


def _split(name: str) -> tuple[str, int]:
    """Return the interface and the VLAN's number of a name like eth0.10."""
    base, dot, text = name.partition(".")
    if not dot or "." in text:
        raise InvalidParameterError(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
    if not text.isascii() or not text.isdecimal():
        raise InvalidParameterError(f"unable to parse a valid vlan id from: {text} (ex. eth0.10 for vlan 10)")
    if not 1 <= int(text) <= 4094:
        raise InvalidParameterError(f"vlan id must be between 1-4094, received: {int(text)}")
    return base, int(text)


def find_link(host: Rtnetlink, name: str) -> Link | None:
    """Return one of the host's links; None if it is not there. Raises SystemFailureError."""
    try:
        return host.find_link(name)
    except NetlinkError as error:
        raise SystemFailureError(f"cannot look at the network: {error}") from error
