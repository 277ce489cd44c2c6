"""Which storage driver an engine uses: the one that was named, the one it used before, or the first that works here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.storage import overlay2
from orlop.storage.trees import open_btrfs, open_vfs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.storage.contract import Snapshotter

DRIVERS: Mapping[str, Callable[[str], Snapshotter]] = {
    "overlay2": overlay2.open_driver,
    "btrfs": open_btrfs,
    "vfs": open_vfs,
}


def check_driver(name: str, options: Sequence[str]) -> None:
    """Refuse what no driver of this version takes.

    Raises:
        UnsupportedError: an unknown driver.
        InvalidParameterError: an unknown option.
    """
    if name and name not in DRIVERS:
        raise UnsupportedError(f"storage driver is not supported: {name}")
    if options:
        raise InvalidParameterError(f"{name or 'overlay2'}: unknown option {options[0].split('=')[0]}")


def open_chosen(layers_root: str, name: str) -> Snapshotter:
    """Open the driver ``name``; without a name the one that has snapshots here, or the first that works.

    Raises:
        UnsupportedError: it does not work on this file system; the message says why.
        SystemFailureError: its directory cannot be made.
    """
    if name:
        return DRIVERS[name](layers_root)
    used = [driver for driver in DRIVERS if _is_used(f"{layers_root}/{driver}")]
    if used:
        return DRIVERS[used[0]](layers_root)
    try:
        return DRIVERS["overlay2"](layers_root)
    except UnsupportedError:
        try:
            return DRIVERS["btrfs"](layers_root)
        except UnsupportedError:
            return DRIVERS["vfs"](layers_root)


def _is_used(path: str) -> bool:
    try:
        return any(not name.startswith(".") for name in os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
