"""How an archive meets the tree it is unpacked into, and which names and attributes may come from it at all."""

from __future__ import annotations

import errno

from orlop.errors import SystemFailureError
from orlop.primitives.tar.entry import Entry, Kind, Limits, TarError, shown
from orlop.spec.record import dataclass

_BAD_INPUT = frozenset((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EMLINK))


@dataclass(frozen=True)
class Rules:
    """What unpacking a stream of files, instead of a layer, does differently.

    Attributes:
        layer: ``.wh.`` members become overlay's whiteouts and opaque directories; else they are plain files.
        apply: the root holds the lower layers' files as well: ``.wh.`` members remove them.
        owner: who gets everything, whatever the archive says; None for the archive's owners.
        own: set owners at all; a user who is not root cannot.
        keep_kinds: a directory never gives way to something else, nor the other way round (``noOverwriteDirNonDir``).
        cross: follow into what is mounted below the root.
        rename: the first name of every path, empty or ``.`` for none, and what takes its place.
        place: path below the root, resolved there with its links, that the archive is unpacked into.
    """

    layer: bool = True
    apply: bool = False
    owner: tuple[int, int] | None = None
    own: bool = True
    keep_kinds: bool = False
    cross: bool = False
    rename: tuple[bytes, bytes] | None = None
    place: bytes = b""

    def path(self, name: bytes, limits: Limits) -> bytes:
        """Return where below the root a member's name, or a hard link's target, is; the place itself for ``.``.

        Raises:
            TarError: it leads out of the place, or is too deep.
        """
        path = clean_path(self.renamed(name), limits)
        return b"/".join(part for part in (self.place, path) if part)

    def renamed(self, name: bytes) -> bytes:
        """Return a member's name, or a hard link's target, as it is to be in the tree.

        Raises:
            TarError: it is not below the name that was asked for.
        """
        if self.rename is None:
            return name
        old, new = self.rename
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise TarError(f"unexpected name in archive: {shown(name)}")
        plain = b"/".join(parts)
        if old in (b"", b"."):
            return new + b"/" + plain
        if plain == old or plain.startswith(old + b"/"):
            return new + plain[len(old) :]
        raise TarError(f"unexpected name in archive: {shown(name)}")


def is_kept_xattr(name: bytes) -> bool:
    """Tell whether an extended attribute may come from or go into an archive.

    ``trusted.overlay.*`` and ``user.overlay.*`` would steer overlay (threats.md B18); other ``security.*`` and
    ``system.*`` belong to the host.
    """
    return name == b"security.capability" or (name.startswith(b"user.") and not name.startswith(b"user.overlay."))


def clean_path(name: bytes, limits: Limits) -> bytes:
    """Return a member's name relative to the root, without ``.``, ``..`` and empty parts; empty for the root.

    Raises:
        TarError: it leads out of the root, or is too deep.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise TarError(f"invalid path in archive: {shown(name)}: outside of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if limits.depth and len(parts) > limits.depth:
        raise TarError(f"invalid path in archive: {shown(name)}: too deep")
    return b"/".join(parts)


class named:  # noqa: N801 - reads as a clause
    """Turn the kernel's errors into ones that name the member."""

    __slots__ = ("_entry", "_verb")

    def __init__(self, entry: Entry, verb: str = "") -> None:
        self._entry = entry
        self._verb = verb

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> None:
        if not isinstance(error, OSError | OverflowError | ValueError):
            return
        entry = self._entry
        verb = self._verb or {Kind.DIRECTORY: "mkdir", Kind.SYMLINK: "symlink", Kind.HARD_LINK: "link"}.get(
            entry.kind,
            "open",
        )
        where = f"{verb} /{shown(entry.name.lstrip(b'/'))}"
        if isinstance(error, OSError) and error.errno not in _BAD_INPUT:
            raise SystemFailureError(f"{where}: {(error.strerror or '').lower()}") from error
        text = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
        raise TarError(f"{where}: {text}") from error
