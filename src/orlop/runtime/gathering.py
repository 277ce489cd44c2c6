"""What COPY, ADD and WORKDIR of a build put into a layer, as the tar of that layer.

A child looks at trees: the sources (a context's directory, or an image, each) and the image that the layer is to stand
on, all through descriptors: paths and patterns of a Dockerfile, links of a context and links of an image are resolved
by the kernel beneath their own root and can name nothing else (threats.md F6, F8). Nothing is written but the tar.

::

    engine ── gather {parts, parents, exclude, target, destination, owner, of_user, root_parents, mode} + pipe ──▶ child
           ◀── tar through the pipe ──                                   action "pack": as it will be in the layer
           ◀── tar through the pipe ──                                   action "sum": without times and destination
           ◀── {ok, sources, directory} ──

"stubs" writes nothing and tells which parts of ``paths`` the target lacks.

The digest of what "sum" writes is what the build cache knows copied files by. "fetch" writes one file's bytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time

from orlop.errors import InvalidParameterError
from orlop.primitives.ignore import IgnoreRules
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.permissions import Permissions
from orlop.primitives.rootpath import components, open_in_root
from orlop.primitives.tar.entry import Entry, Kind, shown
from orlop.primitives.tar.pack import Packer
from orlop.primitives.tar.unpack import WHITEOUT
from orlop.runtime.gather_paths import Destination, Source, find_sources, follow, resolve_file
from orlop.runtime.trees import open_layer, open_view
from orlop.runtime.users import MAX_ID, resolve_identity
from orlop.spec.launch import OverlayRoot, from_message
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject

    Ids = tuple[int, int]

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_MOST_TOLD = 32 << 10  # bytes of a message
_MOST_PARTS = 1000
_PIECE = 1 << 18
_HEAD = 512
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True)
class _Part:
    """A tree and what is taken of it; ``keep``: with its owners; ``unpacked``: with its permissions, too."""

    root_fd: int
    found: tuple[Source, ...]
    keep: bool
    unpacked: bool


def answer_gather(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``gather``."""
    action = message.get("action")
    if action == "stubs":
        reply.send({"ok": True, "stubs": [*_missing(message)]})
        return
    if len(fds) != 1:
        raise InvalidParameterError("gather takes a stream")
    out = fds[0]
    with contextlib.ExitStack() as stack:
        parts = _open_parts(message.get("parts"), stack)
        found = [source for part in parts for source in part.found]
        told: JsonObject = {"sources": len(found), "directory": any(item.directory for item in found)}
        if action == "fetch":
            _fetch(parts, out.fileno())
        elif action == "sum":
            _sum(parts, out.fileno(), message)
            told["archives"] = [os.fsdecode(path) for path in _archives(parts)]
        elif action == "pack":
            _pack(parts, out.fileno(), message, stack)
        else:
            raise InvalidParameterError(f"bad gather request: {action!r:.80}")
    out.close()
    reply.send({"ok": True, **told})


def _open_parts(parts: object, stack: contextlib.ExitStack) -> list[_Part]:
    if not isinstance(parts, list) or len(parts) > _MOST_PARTS:
        raise InvalidParameterError("gather takes parts")
    opened = []
    for part in parts:
        if not isinstance(part, dict):
            raise InvalidParameterError("gather takes parts")
        tree = stack.enter_context(_open_source(part))
        root = stack.enter_context(OwnedFd(os.open(".", _READ, dir_fd=tree.fileno())))
        without = part.get("without")
        left_out = {os.fsencode(str(path)) for path in without} if isinstance(without, list) else set()
        found = [one for one in find_sources(root.fileno(), part.get("patterns")) if one.path not in left_out]
        keep, unpacked = part.get("keep_owner") is True, part.get("unpacked") is True
        opened.append(_Part(root.fileno(), tuple(found), keep, unpacked))
    return opened


def _open_source(message: JsonObject) -> OwnedFd:
    overlay, directory = message.get("source"), message.get("directory")
    if isinstance(overlay, dict):
        return open_view(from_message(OverlayRoot, overlay))
    if isinstance(directory, str) and directory.startswith("/"):
        return open_layer(directory)
    raise InvalidParameterError("gather takes a source")


class _Gatherer(Packer):
    """Writes members as the layer is to have them."""

    def __init__(self, out_fd: int, *, timeless: bool = False, exclude: object = None) -> None:
        super().__init__(out_fd, layer=False)
        self._as: tuple[int, int] | None = None
        self.permissions: Permissions | None = None
        self._timeless = timeless
        self._verbatim = False
        self._rules = IgnoreRules(str(text) for text in exclude) if isinstance(exclude, list) and exclude else None
        self._cut = 0  # of a member's name, what stands before that which the patterns see
        self._parents: set[bytes] = set()

    def put_entry(self, entry: Entry) -> None:
        if entry.name.rstrip(b"/").rpartition(b"/")[2].startswith(WHITEOUT):
            raise InvalidParameterError(
                f"cannot be in a layer, names that begin with .wh. are reserved: {shown(entry.name)}"
            )
        if not self._verbatim:
            if self._as is not None:
                entry = replace(entry, uid=self._as[0], gid=self._as[1])
            if self.permissions is not None and entry.kind is not Kind.SYMLINK:
                directory = entry.kind is Kind.DIRECTORY
                entry = replace(entry, mode=self.permissions.apply(entry.mode, directory=directory))
            if self._timeless:
                entry = replace(entry, mtime=0)
        super().put_entry(entry)

    def put_parent(self, entry: Entry) -> None:
        """Write a directory above what is copied, as it is."""
        self._verbatim = True
        self.put_entry(entry)
        self._verbatim = False

    def add(self, fd: int, name: bytes, path: bytes, *, descend: bool = True) -> None:
        if self._rules is not None and self._is_excluded(fd, name, path):
            return
        super().add(fd, name, path, descend=descend)

    def _is_excluded(self, fd: int, name: bytes, path: bytes) -> bool:
        rules = self._rules
        if rules is None or not rules.ignores(os.fsdecode(path[self._cut :])):
            return False
        # an exception may bring something below a directory back
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return not (rules.has_exceptions and stat.S_ISDIR(status.st_mode))

    def add_source(self, part: _Part, source: Source, path: bytes, *, owner: tuple[int, int] | None) -> None:
        """Write a file as ``path``, or what a directory holds below ``path``."""
        self._as = owner
        self._verbatim = False
        if source.directory:
            directory = open_in_root(part.root_fd, source.path or b".", _READ)
            self._cut = len(path) + 1 if path else 0
            self.enter(directory.release(), path + b"/" if path else b"")
        else:
            named = os.fsdecode(source.path.rpartition(b"/")[2])
            if self._rules is None or not self._rules.ignores(named):
                parent, name = resolve_file(part.root_fd, source.path)
                with parent:
                    super().add(parent.fileno(), name, path)
        self.drain()

    def add_with_parents(self, part: _Part, source: Source, into: bytes, *, owner: tuple[int, int] | None) -> None:
        """Write a source below ``into`` with the directories above it, as they are there (``--parents``)."""
        prefix = into + b"/" if into else b""
        names = source.relative.split(b"/") if source.relative else []
        self._as = owner
        above = len(names) if source.directory else len(names) - 1
        self._cut = len(prefix)
        for depth in range(1, above + 1):
            path = prefix + b"/".join(names[:depth])
            if path in self._parents:
                continue
            self._parents.add(path)
            there = b"/".join(source.path.split(b"/")[: source.base + depth])
            with open_in_root(part.root_fd, there, os.O_PATH | os.O_DIRECTORY) as fd:
                status = os.fstat(fd.fileno())
            ids = (status.st_uid, status.st_gid)
            mode = stat.S_IMODE(status.st_mode)
            self.put_entry(Entry(path + b"/", Kind.DIRECTORY, mode, ids[0], ids[1], status.st_mtime_ns))
        path = prefix + source.relative
        if source.directory:
            directory = open_in_root(part.root_fd, source.path or b".", _READ)
            self.enter(directory.release(), path.rstrip(b"/") + b"/" if path.rstrip(b"/") else b"")
        else:
            parent, name = resolve_file(part.root_fd, source.path)
            with parent:
                self.add(parent.fileno(), name, path)
        self.drain()


def _sum(parts: list[_Part], out_fd: int, message: JsonObject) -> None:
    packer = _Gatherer(out_fd, timeless=True, exclude=message.get("exclude"))
    for part in parts:
        for source in part.found:
            owner = None if part.keep else (0, 0)
            if message.get("parents") is True:
                packer.add_with_parents(part, source, b"", owner=owner)
            else:
                packer.add_source(part, source, source.path.rpartition(b"/")[2] or b".", owner=owner)
    packer.pack()


def _pack(parts: list[_Part], out_fd: int, message: JsonObject, stack: contextlib.ExitStack) -> None:
    target, text = message.get("target"), os.fsencode(str(message.get("destination")))
    owner_text, mode = str(message.get("owner") or ""), message.get("mode")
    permissions = Permissions(mode) if isinstance(mode, str) and mode else None
    top_fd = -1
    if isinstance(target, dict):
        tree = stack.enter_context(open_view(from_message(OverlayRoot, target)))
        top_fd = stack.enter_context(OwnedFd(os.open(".", _READ, dir_fd=tree.fileno()))).fileno()
    owner = (0, 0) if not owner_text else _owner(top_fd, owner_text, of_user=message.get("of_user") is True)
    packer = _Gatherer(out_fd, exclude=message.get("exclude"))
    latest = message.get("latest")
    packer.latest = latest if isinstance(latest, int) else None
    place = follow(top_fd, components(text))
    found = [source for part in parts for source in part.found]
    if not found and place.directory:
        packer.pack()  # WORKDIR of what is there: nothing changes
        return
    parents = message.get("parents") is True
    into = parents or text.endswith((b"/", b"/.")) or len(found) > 1 or not found or place.directory
    whole = into or any(item.directory for item in found)
    if place.exists and not place.directory and whole:
        raise InvalidParameterError(f"cannot copy to non-directory: /{shown(b'/'.join(place.parts))}")
    plain = not parts or not all(part.unpacked for part in parts)
    # Docker's classic builder leaves what it makes above a directory to root, and not what it makes above a file.
    above = (0, 0) if message.get("root_parents") is True and found and found[0].directory else owner
    own = (above, owner) if plain else ((0, 0), (0, 0))
    _put_parents(packer, top_fd, place, whole=whole, owners=own)
    path = b"/".join(place.parts)
    for part in parts:
        given = None if part.unpacked or (part.keep and not owner_text) else owner
        packer.permissions = None if part.unpacked else permissions
        for source in part.found:
            if parents:
                packer.add_with_parents(part, source, path, owner=given)
                continue
            name = source.path.rpartition(b"/")[2]
            goes = path if source.directory or not into else b"/".join([one for one in (path, name) if one])
            if not source.directory and not goes:
                raise InvalidParameterError("cannot copy a file to /: name it, or end the destination with a slash")
            packer.add_source(part, source, goes, owner=given)
    packer.pack()


def _put_parents(packer: _Gatherer, top_fd: int, place: Destination, *, whole: bool, owners: tuple[Ids, Ids]) -> None:
    """Write the directories that lead there: those of the image as they are, missing ones as Docker makes them.

    The owners are of the missing ones above the destination, and of the destination.
    """
    now = time.time_ns()
    last = len(place.parts) if whole else len(place.parts) - 1
    for depth in range(1, last + 1):
        path = b"/".join(place.parts[:depth])
        if depth <= place.existing:
            with open_in_root(top_fd, path, os.O_PATH | os.O_NOFOLLOW) as fd:
                status = os.fstat(fd.fileno())
            mtime = now if depth == last else status.st_mtime_ns
            mode, ids = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        else:
            mtime, mode, ids = now, 0o755, owners[depth == len(place.parts)]
        packer.put_parent(Entry(path + b"/", Kind.DIRECTORY, mode, ids[0], ids[1], mtime))


def _missing(message: JsonObject) -> list[str]:
    """Return what is missing, up to each of these paths, in the image below: what mounts there will make."""
    target, paths = message.get("target"), message.get("paths")
    if not isinstance(target, dict) or not isinstance(paths, list):
        raise InvalidParameterError("stubs take a target and paths")
    found: list[str] = []
    with (
        open_view(from_message(OverlayRoot, target)) as tree,
        OwnedFd(os.open(".", _READ, dir_fd=tree.fileno())) as top,
    ):
        for path in paths:
            place = follow(top.fileno(), components(str(path)))
            depths = range(place.existing + 1, len(place.parts) + 1)
            found += [os.fsdecode(b"/".join(place.parts[:depth])) for depth in depths]
    return found


def _owner(top_fd: int, text: str, *, of_user: bool) -> tuple[int, int]:
    """Read ``--chown``: a user alone names the group of the same name or number, as in Docker; a USER its own one."""
    user, colon, group = text.partition(":")
    group = group if colon else user
    if user.isascii() and user.isdigit() and group.isascii() and group.isdigit():
        if len(user) < 11 and len(group) < 11 and int(user) <= MAX_ID and int(group) <= MAX_ID:
            return int(user), int(group)
        raise InvalidParameterError(f"uids and gids must be in range 0-{MAX_ID}: {text[:80]}")
    try:
        if top_fd < 0:
            raise InvalidParameterError("the stage is empty")
        found = resolve_identity(top_fd, user if of_user and not colon else f"{user}:{group}")
    except InvalidParameterError as error:
        raise InvalidParameterError(f"unable to convert uid/gid chown string to host mapping: {error}") from None
    return found.uid, found.gid


def _archives(parts: list[_Part]) -> list[bytes]:
    """Return the paths of files that begin as archives do, compressed or not."""
    files = [(part.root_fd, source.path) for part in parts for source in part.found if not source.directory]
    found = [path for root_fd, path in files if _is_packed(root_fd, path)]
    if sum(map(len, found)) > _MOST_TOLD:
        raise InvalidParameterError("too many archives to be unpacked at once")
    return found


def _is_packed(root_fd: int, path: bytes) -> bool:
    parent, name = resolve_file(root_fd, path)
    with parent, OwnedFd(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent.fileno())) as there:
        if not stat.S_ISREG(os.fstat(there.fileno()).st_mode):
            return False
        with OwnedFd(os.open(name, _FILE, dir_fd=parent.fileno())) as file:
            head = os.read(file.fileno(), _HEAD)
    return head.startswith(_PACKED) or head[257:262] == b"ustar"


def _fetch(parts: list[_Part], out_fd: int) -> None:
    """Write the bytes of one file; nothing for anything else."""
    if len(parts) != 1 or len(parts[0].found) != 1 or parts[0].found[0].directory:
        return
    parent, name = resolve_file(parts[0].root_fd, parts[0].found[0].path)
    with parent, OwnedFd(os.open(name, _FILE, dir_fd=parent.fileno())) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        while data := os.read(file.fileno(), _PIECE):
            view = memoryview(data)
            while view:
                view = view[os.write(out_fd, view) :]
