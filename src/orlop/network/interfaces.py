"""What a container's interfaces are called inside (threats.md G10: the names come from users, and reach the kernel)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.network.options import is_interface_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

OPTION_NAME = "com.docker.network.endpoint.ifname"
_LONGEST = 15  # IFNAMSIZ without its zero
_OTHERS = ("lo", "all", "default")  # the last two mean several interfaces below /proc/sys/net: the kernel refuses them


def check_prefix(prefix: str, option: str) -> None:
    """Raise InvalidParameterError for what no interface's name could begin with; "" is the usual one."""
    if prefix and not is_interface_name(f"{prefix}0"):
        reason = f"it leaves no room for a number in the kernel's {_LONGEST} characters"
        if len(prefix) < _LONGEST:
            reason = "only letters, digits and ._- are allowed, a letter or digit first"
        raise InvalidParameterError(f"invalid value of {option}: {prefix!r}: {reason}")


def check_name(name: str) -> None:
    """Raise InvalidParameterError for what no interface of a container can be called; "" leaves it to the engine."""
    if name and (not is_interface_name(name) or name in _OTHERS):
        raise InvalidParameterError(f"invalid interface name: {name!r}")


def check_clashes(options: Iterable[Mapping[str, str]]) -> None:
    """Raise InvalidParameterError if two endpoints of a container, by their options, are to be called the same."""
    names = [name for each in options if (name := each.get(OPTION_NAME))]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidParameterError(f"interface name {name} is asked for by more than one endpoint")


def next_name(prefix: str, taken: Collection[str]) -> str:
    """Return the prefix with the lowest number that makes a name that is not taken.

    Raises:
        SystemFailureError: it is too long for the kernel, in its words.
    """
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    name = f"{prefix}{number}"
    if len(name) > _LONGEST:
        raise SystemFailureError(f"failed to set up container networking: {name!r}: numerical result out of range")
    return name


def chosen_name(options: Mapping[str, str], prefix: str, taken: Collection[str]) -> str:
    """Return the name of one more interface of a container that runs: the one of its options, or the next one.

    Raises:
        SystemFailureError: it is taken, or too long, in Docker's words.
    """
    name = options.get(OPTION_NAME, "")
    if name in taken:
        raise SystemFailureError(
            f'failed to add interface to sandbox: error renaming interface to "{name}": file exists'
        )
    return name or next_name(prefix, taken)


def name_all(wanted: Sequence[tuple[Mapping[str, str], str]]) -> list[str]:
    """Return the names of all interfaces of a container that starts; names that were chosen go before all others.

    Args:
        wanted: for each endpoint its options, and its network's prefix.

    Raises:
        SystemFailureError: in Docker's words.
    """
    names: list[str] = []
    for options, _ in wanted:
        if options.get(OPTION_NAME):
            names.append(chosen_name(options, "", names))
    result: list[str] = []
    for options, prefix in wanted:
        name = options.get(OPTION_NAME) or next_name(prefix, names)
        names.append(name)
        result.append(name)
    return result
