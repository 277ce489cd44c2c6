"""What a container's interfaces are called inside (threats.md G10: the names come from users, and reach the kernel)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.network.options import is_interface_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_LONGEST = 15  # IFNAMSIZ without its zero


def check_prefix(prefix: str, option: str) -> None:
    """Raise InvalidParameterError for what no interface's name could begin with; "" is the usual one."""
    if prefix and not is_interface_name(f"{prefix}0"):
        reason = f"it leaves no room for a number in the kernel's {_LONGEST} characters"
        if len(prefix) < _LONGEST:
            reason = "only letters, digits and ._- are allowed, a letter or digit first"
        raise InvalidParameterError(f"invalid value of {option}: {prefix!r}: {reason}")


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


def name_all(prefixes: Iterable[str]) -> list[str]:
    """Return the names of all interfaces of a container that starts, one for each prefix. Raises SystemFailureError."""
    names: list[str] = []
    for prefix in prefixes:
        names.append(next_name(prefix, names))
    return names
