"""Options of Docker's local volume driver: what is mounted instead of the volume's own directory.

Docker mounts it on the host, once. Here each container's init mounts it in its own namespace; file systems on devices
and servers are one and the same wherever they are mounted. A tmpfs is not: a container that is started while another
one has it gets a clone of that mount (``runtime.shared_memory``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel.mount import fsopen

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS = frozenset(("type", "o", "device", "size"))
# In Docker's order: with the left one, the right ones must be there.
_NEEDED = (("device", ("type",)), ("type", ("device",)), ("o", ("device", "type")))
_BIND = frozenset(("bind", "rbind"))


@dataclass(frozen=True, slots=True)
class LocalMount:
    """What is mounted.

    Attributes:
        fstype: ``bind``, or a file system's name.
        device: a directory, a device, a server's export.
        options: as in mount(8).
    """

    fstype: str
    device: str
    options: tuple[str, ...]


def parse_local_options(name: str, options: Mapping[str, str]) -> LocalMount | None:
    """Read the options of the volume ``name``; None without any.

    Raises:
        InvalidParameterError: in Docker's words.
        UnsupportedError: a file system that this kernel does not have.
    """
    for option in options:
        if option not in _OPTIONS:
            raise InvalidParameterError(f'create {name}: invalid option: "{option}"')
    for option, needed in _NEEDED:
        for other in needed:
            if options.get(option) and not options.get(other):
                raise InvalidParameterError(f'create {name}: missing required option: "{other}"')
    if options.get("size"):
        raise InvalidParameterError(f"create {name}: quota size requested but no quota support")
    device = options.get("device", "")
    if not device:
        return None
    for value in options.values():
        if "\0" in value:
            raise InvalidParameterError(f"create {name}: an option holds a NUL")
    words = tuple(word for word in options.get("o", "").split(",") if word)
    if _BIND & set(words):
        if not device.startswith("/"):
            raise InvalidParameterError(f'create {name}: device of a bind must be an absolute path: "{device}"')
        return LocalMount("bind", device, words)
    fstype = options["type"]
    _require_known(name, fstype)
    return LocalMount(fstype, device, words)


def _require_known(name: str, fstype: str) -> None:
    """Ask the kernel, which loads a module for it if there is one."""
    try:
        os.close(fsopen(fstype))
    except (OSError, ValueError) as error:
        raise UnsupportedError(
            f'create {name}: file system is not supported by this kernel: "{fstype}": no such device'
        ) from error
