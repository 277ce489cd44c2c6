"""Which storage driver an engine uses: the one that was named, the one it used before, or the first that works here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.errors import OrlopError, UnsupportedError
from orlop.storage import devicemapper, options, overlay2
from orlop.storage.trees import open_btrfs, open_vfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.storage.contract import Snapshotter

Options = dict[str, str]

# In the order in which one is looked for that has snapshots already. Each takes its directory's parent and its options.
DRIVERS: Mapping[str, Callable[[str, Options], Snapshotter]] = {
    "overlay2": overlay2.open_driver,
    "btrfs": open_btrfs,
    "devicemapper": devicemapper.open_driver,
    "vfs": open_vfs,
}
_CHECKS: Mapping[str, Callable[[Options], object]] = {
    "overlay2": options.overlay2_size,
    "btrfs": options.btrfs_min_space,
    "devicemapper": devicemapper.parse_options,
    "vfs": options.refuse_for_vfs,
}


def check_driver(name: str, given: Sequence[str]) -> None:
    """Refuse what no driver of this version takes; the options of a driver that is chosen later are looked at then.

    Raises:
        UnsupportedError: an unknown driver.
        InvalidParameterError: an unknown option, or a bad value.
    """
    pairs = options.parse_pairs(given)
    if name:
        if name not in DRIVERS:
            raise UnsupportedError(f"storage driver is not supported: {name}")
        _CHECKS[name](pairs)
    elif not any(_takes(check, pairs) for check in _CHECKS.values()):
        _CHECKS["overlay2"](pairs)


def _takes(check: Callable[[Options], object], pairs: Options) -> bool:
    try:
        check(pairs)
    except OrlopError:
        return False
    return True


def open_chosen(layers_root: str, name: str, given: Sequence[str] = ()) -> Snapshotter:
    """Open the driver ``name``; without a name the one that has snapshots here, or the first that works.

    Raises:
        InvalidParameterError: an option that the driver does not know.
        UnsupportedError: it does not work on this file system; the message says why.
        SystemFailureError: its directory cannot be made.
    """
    pairs = options.parse_pairs(given)
    if name:
        return DRIVERS[name](layers_root, pairs)
    used = [driver for driver in DRIVERS if _is_used(f"{layers_root}/{driver}")]
    if used:
        return DRIVERS[used[0]](layers_root, pairs)
    try:
        return DRIVERS["overlay2"](layers_root, pairs)
    except UnsupportedError:
        try:
            return DRIVERS["btrfs"](layers_root, pairs)
        except UnsupportedError:
            return DRIVERS["vfs"](layers_root, pairs)


def _is_used(path: str) -> bool:
    try:
        return any(not name.startswith(".") for name in os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
