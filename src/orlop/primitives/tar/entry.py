"""What a tar archive is made of: one :class:`Entry` per member, and the :class:`Limits` a reader keeps.

Names and link targets are bytes, exactly as stored (threats.md D7): no codec is ever asked about them.
"""

from __future__ import annotations

import codecs

from orlop.errors import InvalidParameterError
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class Kind:
    """The type of a member; the value is its ``typeflag`` (POSIX.1-2017 pax, "ustar Interchange Format").

    There are these and no others: they are compared by identity. (``enum`` would be most of what the spawner loads.)
    """

    __slots__ = ("_name", "value")

    FILE: ClassVar[Kind]
    HARD_LINK: ClassVar[Kind]
    SYMLINK: ClassVar[Kind]
    CHARACTER: ClassVar[Kind]
    BLOCK: ClassVar[Kind]
    DIRECTORY: ClassVar[Kind]
    FIFO: ClassVar[Kind]

    def __init__(self, name: str, value: bytes) -> None:
        self._name = name
        self.value = value

    def __repr__(self) -> str:
        return f"Kind.{self._name}"


KINDS = tuple([Kind(name, b"%d" % number) for number, name in enumerate(Kind.__annotations__)])
for _kind in KINDS:
    setattr(Kind, repr(_kind).removeprefix("Kind."), _kind)


@dataclass(frozen=True)
class Entry:
    """One member's header.

    Attributes:
        name: as stored; may be absolute, may hold ``..``.
        kind: what it is.
        mode: permission bits, 0..0o7777.
        uid: numeric owner; user names in archives are ignored.
        gid: numeric group.
        mtime: nanoseconds since the epoch.
        size: bytes of payload that follow in the archive; 0 for everything but files.
        target: of a hard link (a member's name) or of a symbolic link (verbatim).
        device: major and minor number.
        xattrs: extended attributes by name, unfiltered.
        sparse: data regions (offset, length) of a sparse file, in order, or None.
        real_size: size of the file when unpacked; differs from ``size`` only for sparse files.
    """

    name: bytes
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}  # noqa: RUF012 - never changed
    sparse: tuple[tuple[int, int], ...] | None = None
    real_size: int = 0


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for before it is refused (threats.md D7, E7). 0 means no limit.

    Attributes:
        size: payload bytes in total; for a sparse file its data, not its holes.
        entries: members.
        metadata: bytes of one pax or GNU long-name record.
        path: bytes of a name or link target.
        depth: components of a name.
    """

    size: int = 0
    entries: int = 5_000_000
    metadata: int = 1 << 20
    path: int = 4096
    depth: int = 512


class TarError(InvalidParameterError):
    """The archive is damaged or asks for something that is refused."""


INVALID_HEADER = "archive/tar: invalid tar header"
UNEXPECTED_EOF = "unexpected EOF"
codecs.lookup("unicode_escape")  # a codec is imported at its first use, which in a forked child is refused


def shown(name: bytes) -> str:
    """Return a member's name for an error message: printable, at most 200 characters."""
    return name.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")[:200]
