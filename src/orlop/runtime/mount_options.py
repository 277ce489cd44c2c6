"""Mount options of the runtime-spec: from text to mount attributes and parameters (mount(8), mount_setattr(2))."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import mount as k
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SET = {
    "ro": k.MOUNT_ATTR_RDONLY,
    "nosuid": k.MOUNT_ATTR_NOSUID,
    "nodev": k.MOUNT_ATTR_NODEV,
    "noexec": k.MOUNT_ATTR_NOEXEC,
    "nodiratime": k.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": k.MOUNT_ATTR_NOSYMFOLLOW,
}
_CLEAR = {
    "rw": k.MOUNT_ATTR_RDONLY,
    "suid": k.MOUNT_ATTR_NOSUID,
    "dev": k.MOUNT_ATTR_NODEV,
    "exec": k.MOUNT_ATTR_NOEXEC,
    "diratime": k.MOUNT_ATTR_NODIRATIME,
    "symfollow": k.MOUNT_ATTR_NOSYMFOLLOW,
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
# what a mount is without them
_IGNORED = frozenset({"defaults", "silent", "loud", "async", "noiversion", "nolazytime", "nomand", "newinstance"})
# Docker's own, which it acts on before
_DOCKERS = frozenset({"copy", "nocopy", "z", "Z"})
# of a file system as a whole, so nothing that a bind mount could have (fsconfig(2))
_SUPERBLOCK = frozenset({"sync", "dirsync", "lazytime", "mand", "iversion"})
_SPECIAL = frozenset({"bind", "rbind", "idmap", "ridmap", "tmpcopyup", "remount"})
_OWN = {**_SET, **_CLEAR, **_TIMES}
_RECURSIVE = {f"r{name}": name for name in _OWN}
# the part of a bind's source that is shown, resolved inside the source (threats.md B17); the engine's own
SUBPATH_OPTION = "x-orlop.subpath="
# for ``features``
KNOWN_OPTIONS = tuple(sorted({*_OWN, *_RECURSIVE, *PROPAGATION, *_IGNORED, *_SUPERBLOCK, *_SPECIAL}))


@dataclass(frozen=True)
class MountOptions:
    """Options, sorted by what they act on.

    Attributes:
        attr_set: mount attributes to set.
        attr_clear: mount attributes to clear.
        recursive_set: mount attributes to set on the whole tree (``rro`` and its like).
        recursive_clear: mount attributes to clear on the whole tree (``rrw`` and its like).
        propagation: MS_SHARED and so on, with MS_REC; 0 leaves it.
        bind: this is a bind mount.
        recursive: ... of the whole tree.
        idmap: show it with mapped ids: the mount's own mapping, else that of the container's user namespace.
        recursive_idmap: ... the whole tree.
        copy_up: a tmpfs that begins with what it covers.
        remount: change what is mounted there already.
        subpath: the part of a bind's source that is shown.
        parameters: the rest, for the file system.
    """

    attr_set: int = 0
    attr_clear: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: int = 0
    bind: bool = False
    recursive: bool = False
    idmap: bool = False
    recursive_idmap: bool = False
    copy_up: bool = False
    remount: bool = False
    subpath: str = ""
    parameters: tuple[str, ...] = ()

    def of_one_mount(self) -> MountOptions:
        """Return them as those of a new file system, which is a tree of one mount."""
        if not self.recursive_set and not self.recursive_clear:
            return self
        attributes = self.attr_set & ~self.recursive_clear | self.recursive_set
        return replace(self, attr_set=attributes, recursive_set=0, recursive_clear=0)


class _Attributes:
    """Attributes to set and to clear; a later option wins over an earlier one."""

    __slots__ = ("clear", "set")

    def __init__(self) -> None:
        self.set = self.clear = 0

    def add(self, option: str) -> None:
        """Add one of :data:`_OWN`."""
        if option in _SET:
            self.set |= _SET[option]
            self.clear &= ~_SET[option]
        elif option in _CLEAR:
            self.clear |= _CLEAR[option]
            self.set &= ~_CLEAR[option]
        else:
            self.set = self.set & ~k.MOUNT_ATTR__ATIME | _TIMES[option]
            self.clear |= k.MOUNT_ATTR__ATIME


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort options; later ones win over earlier ones.

    Raises:
        UnsupportedError: an option that this runtime would have to ignore.
        InvalidParameterError: one with a control character.
    """
    own, tree = _Attributes(), _Attributes()
    propagation = 0
    special: set[str] = set()
    parameters: list[str] = []
    subpath = ""
    for option in options:
        if option in _OWN:
            own.add(option)
        elif option in _RECURSIVE:
            tree.add(_RECURSIVE[option])
        elif option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif option in _SPECIAL:
            special.add(option)
        elif option.startswith(SUBPATH_OPTION):
            subpath = option.removeprefix(SUBPATH_OPTION)
        elif any(ord(char) < 32 for char in option):
            raise InvalidParameterError(f"invalid mount option: {option!r:.80}")
        elif option and option not in _IGNORED and option not in _DOCKERS:
            parameters.append(option)
    if "remount" in special and (parameters or "bind" not in special):
        raise UnsupportedError("mount option is not supported but with bind: remount")
    return MountOptions(
        own.set,
        own.clear,
        tree.set,
        tree.clear,
        propagation,
        bind="bind" in special or "rbind" in special,
        recursive="rbind" in special,
        idmap="idmap" in special or "ridmap" in special,
        recursive_idmap="ridmap" in special,
        copy_up="tmpcopyup" in special,
        remount="remount" in special,
        subpath=subpath,
        parameters=tuple(parameters),
    )
