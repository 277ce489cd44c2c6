"""Mount options of the runtime-spec: from text to mount attributes and parameters (mount(8), mount_setattr(2))."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import mount as k
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SET = {
    "ro": k.MOUNT_ATTR_RDONLY,
    "nosuid": k.MOUNT_ATTR_NOSUID,
    "nodev": k.MOUNT_ATTR_NODEV,
    "noexec": k.MOUNT_ATTR_NOEXEC,
    "nodiratime": k.MOUNT_ATTR_NODIRATIME,
}
_CLEAR = {
    "rw": k.MOUNT_ATTR_RDONLY,
    "suid": k.MOUNT_ATTR_NOSUID,
    "dev": k.MOUNT_ATTR_NODEV,
    "exec": k.MOUNT_ATTR_NOEXEC,
    "diratime": k.MOUNT_ATTR_NODIRATIME,
}
_TIMES = {
    "relatime": k.MOUNT_ATTR_RELATIME,
    "noatime": k.MOUNT_ATTR_NOATIME,
    "strictatime": k.MOUNT_ATTR_STRICTATIME,
    "atime": k.MOUNT_ATTR_RELATIME,
    "norelatime": k.MOUNT_ATTR_RELATIME,
    "nostrictatime": k.MOUNT_ATTR_RELATIME,
}
PROPAGATION = {
    "private": k.MS_PRIVATE,
    "shared": k.MS_SHARED,
    "slave": k.MS_SLAVE,
    "unbindable": k.MS_UNBINDABLE,
    "rprivate": k.MS_PRIVATE | k.MS_REC,
    "rshared": k.MS_SHARED | k.MS_REC,
    "rslave": k.MS_SLAVE | k.MS_REC,
    "runbindable": k.MS_UNBINDABLE | k.MS_REC,
}
_IGNORED = frozenset({"defaults", "silent", "loud", "async", "nolazytime", "newinstance", "copy", "nocopy", "z", "Z"})
_REFUSED = frozenset({"ridmap", "remount", "mand", "iversion", "lazytime", "tmpcopyup"})


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options, sorted by what they act on.

    Attributes:
        attr_set: mount attributes to set.
        attr_clear: mount attributes to clear.
        recursive_set: mount attributes to set on the whole tree (``rro`` and its like).
        propagation: MS_SHARED and so on, with MS_REC; 0 leaves it.
        bind: this is a bind mount.
        recursive: ... of the whole tree.
        idmap: show it with the ids of the container's user namespace.
        parameters: the rest, for the file system.
    """

    attr_set: int = 0
    attr_clear: int = 0
    recursive_set: int = 0
    propagation: int = 0
    bind: bool = False
    recursive: bool = False
    idmap: bool = False
    parameters: tuple[str, ...] = ()


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort options; later ones win over earlier ones.

    Raises:
        UnsupportedError: an option that this runtime would have to ignore.
        InvalidParameterError: one with a control character.
    """
    attr_set = attr_clear = recursive_set = propagation = 0
    bind = recursive = idmap = False
    parameters: list[str] = []
    for option in options:
        if option in _SET:
            attr_set |= _SET[option]
            attr_clear &= ~_SET[option]
        elif option in _CLEAR:
            attr_clear |= _CLEAR[option]
            attr_set &= ~_CLEAR[option]
        elif option in _TIMES:
            attr_set = attr_set & ~k.MOUNT_ATTR__ATIME | _TIMES[option]
            attr_clear |= k.MOUNT_ATTR__ATIME
        elif option.startswith("r") and option[1:] in _SET and option != "ro":
            recursive_set |= _SET[option[1:]]
        elif option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif option in {"bind", "rbind"}:
            bind, recursive = True, option == "rbind"
        elif option == "idmap":
            idmap = True
        elif option in _REFUSED:
            raise UnsupportedError(f"mount option is not supported: {option}")
        elif any(ord(char) < 32 for char in option):
            raise InvalidParameterError(f"invalid mount option: {option!r}")
        elif option not in _IGNORED:
            parameters.append(option)
    return MountOptions(attr_set, attr_clear, recursive_set, propagation, bind, recursive, idmap, tuple(parameters))
