"""Kernel parameters of one interface, as the endpoint option ``com.docker.network.endpoint.sysctls`` has them.

The user writes ``net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2``. What reaches the kernel is one
file below /proc/sys/net of the container's own network namespace for each, put together here out of checked words: the
interface is always the endpoint's, and there is no way to name another file (threats.md G10, B6). A child of the
spawner writes it, by the host's /proc, which no container can mount over.
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError
from orlop.spec.charset import DIGITS, LOWER, consists_of

OPTION_SYSCTLS = "com.docker.network.endpoint.sysctls"
_PARTS = {"ipv4": ("conf", "neigh"), "ipv6": ("conf", "neigh"), "mpls": ("conf",)}
_PARAMETER = LOWER | DIGITS | {"_"}
_VALUE = frozenset(map(chr, range(0x21, 0x7F)))
_LONGEST, _MOST = 64, 64


def parse_sysctls(text: str) -> list[tuple[str, str, str]]:
    """Return the folder ("ipv4/conf"), the parameter and the value of each.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    entries = text.split(",")
    if len(entries) > _MOST:
        raise InvalidParameterError(f"too many network interface sysctls: {len(entries)}")
    return [_parse(entry) for entry in entries]


def _parse(entry: str) -> tuple[str, str, str]:
    name, equals, value = entry.partition("=")
    words = name.split(".")
    shown = entry if entry.isprintable() and len(entry) <= 200 else repr(entry[:200])
    net, kind, part, interface = (*words, "", "", "", "")[:4]
    # "ifname" as well: docker's client writes what it sends of --network in lower case
    known = net == "net" and part in _PARTS.get(kind, ()) and interface in ("IFNAME", "ifname")
    if not known or len(words) < 5:
        raise InvalidParameterError(
            f"unrecognised network interface sysctl '{shown}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V',"
            " 'X' must be 'ipv4', 'ipv6' or 'mpls'"
        )
    if not equals:
        raise InvalidParameterError(f"expected sysctl '{shown}' to have format name=value")
    if len(words) != 5 or not consists_of(words[4], _PARAMETER, 1, _LONGEST):
        raise InvalidParameterError(f"expected sysctl '{shown}' to have format net.X.Y.IFNAME.Z")
    if not consists_of(value, _VALUE, 1, _LONGEST):
        raise InvalidParameterError(f"invalid value of network interface sysctl '{shown}'")
    return f"{kind}/{part}", words[4], value


def settings_of(text: str, interface: str) -> dict[str, str]:
    """Return path below /proc/sys/net -> value, for an interface whose name was checked. Raises as parse_sysctls."""
    return {f"{folder}/{interface}/{parameter}": value for folder, parameter, value in parse_sysctls(text)}
