"""Options of the drivers (``--storage-opt``), which are named and refused as dockerd does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.storage.limits import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_log = logging.getLogger(__name__)


def parse_pairs(options: Iterable[str]) -> dict[str, str]:
    """Split ``name=value``; of a name given twice the last one counts.

    Raises:
        InvalidParameterError: "unable to parse key/value option: x".
    """
    pairs = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise InvalidParameterError(f"unable to parse key/value option: {option}")
        pairs[name.strip().lower()] = value.strip()
    return pairs


def overlay2_size(options: Mapping[str, str]) -> int:
    """Return the bytes that each container may have (``overlay2.size``); 0 for no limit."""
    for name in options:
        if name == "overlay2.override_kernel_check":
            _log.warning("DEPRECATED: the overlay2.override_kernel_check option is ignored")
        elif name != "overlay2.size":
            raise InvalidParameterError(f"overlay2: unknown option {name}")
    return parse_size(options.get("overlay2.size", "0"))


def btrfs_min_space(options: Mapping[str, str]) -> int:
    """Return the least bytes that a container may be limited to (``btrfs.min_space``)."""
    for name in options:
        if name != "btrfs.min_space":
            raise InvalidParameterError(f"Unknown option {name}")
    return parse_size(options.get("btrfs.min_space", "0"))


def refuse_for_vfs(options: Mapping[str, str]) -> None:
    """``vfs`` has no options here."""
    for name in options:
        raise InvalidParameterError(f"unknown option {name} for vfs")
