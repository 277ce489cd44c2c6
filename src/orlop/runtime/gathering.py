"""What COPY, ADD and WORKDIR of a build put into a layer, as the tar of that layer.

A child looks at two trees, the source (a context's directory, or an image) and the image that the layer is to stand
on, both through descriptors: paths and patterns of a Dockerfile, links of a context and links of an image are resolved
by the kernel beneath their own root and can name nothing else (threats.md F6, F8). Nothing is written but the tar.

::

    engine ── gather {source, patterns, target, destination, owner, mode} + pipe ──▶ child
           ◀── tar through the pipe ──                                   action "pack": as it will be in the layer
           ◀── tar through the pipe ──                                   action "sum": without times and destination
           ◀── {ok, sources, directory} ──

"stubs" writes nothing and tells which parts of ``paths`` the target lacks.

The digest of what "sum" writes is what the build cache knows copied files by. "fetch" writes one file's bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from orlop.errors import InvalidParameterError, NotFoundError
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import components, open_in_root
from orlop.primitives.tar.entry import Entry, Kind, shown
from orlop.primitives.tar.pack import Packer
from orlop.primitives.tar.unpack import WHITEOUT
from orlop.primitives.wildcards import is_wild, matches
from orlop.runtime.trees import open_layer, open_view
from orlop.runtime.users import MAX_ID, resolve_identity
from orlop.spec.launch import OverlayRoot, from_message
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.channel import Channel
    from orlop.runtime.cgroups import Hierarchies
    from orlop.spec.json import JsonObject

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_MAX_LINKS = 40
_MOST_SOURCES = 100_000
_MOST_TOLD = 100
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class _Source:
    """One thing to copy: its path below the root as it was named, and what is there, links followed."""

    path: bytes
    directory: bool


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where to: ``path`` without links, of which the first ``existing`` parts are there."""

    parts: tuple[bytes, ...]
    existing: int
    directory: bool

    @property
    def exists(self) -> bool:
        return self.existing == len(self.parts)


def answer_gather(reply: Channel, message: JsonObject, fds: list[OwnedFd], _: Hierarchies) -> None:
    """Operation ``gather``."""
    action = message.get("action")
    if action == "stubs":
        reply.send({"ok": True, "stubs": [*_missing(message)]})
        return
    if len(fds) != 1:
        raise InvalidParameterError("gather takes a stream")
    out = fds[0]
    with _open_source(message) as source_tree, OwnedFd(os.open(".", _READ, dir_fd=source_tree.fileno())) as source:
        found = _find_all(source.fileno(), message.get("patterns"))
        told: JsonObject = {"sources": len(found), "directory": any(item.directory for item in found)}
        told["files"] = [os.fsdecode(item.path) for item in found[:_MOST_TOLD] if not item.directory]
        if action == "fetch":
            _fetch(source.fileno(), found, out.fileno())
        elif action == "sum":
            _sum(source.fileno(), found, out.fileno(), keep=message.get("keep_owner") is True)
        elif action == "pack":
            _pack(source.fileno(), found, out.fileno(), message)
        else:
            raise InvalidParameterError(f"bad gather request: {action!r:.80}")
    out.close()
    reply.send({"ok": True, **told})


def _open_source(message: JsonObject) -> OwnedFd:
    overlay, directory = message.get("source"), message.get("directory")
    if isinstance(overlay, dict):
        return open_view(from_message(OverlayRoot, overlay))
    if isinstance(directory, str) and directory.startswith("/"):
        return open_layer(directory)
    raise InvalidParameterError("gather takes a source")


# Sources.


def _find_all(root_fd: int, patterns: object) -> list[_Source]:
    if not isinstance(patterns, list):
        raise InvalidParameterError("gather takes patterns")
    found: list[_Source] = []
    for pattern in patterns:
        text = str(pattern)
        paths = _expand(root_fd, components(text))
        if not paths:
            raise NotFoundError("no source files were specified")
        found += [_look(root_fd, path, text) for path in paths]
        if len(found) > _MOST_SOURCES:
            raise InvalidParameterError(f"too many source files: {text[:80]}")
    return found


def _look(root_fd: int, path: bytes, pattern: str) -> _Source:
    try:
        with open_in_root(root_fd, path or b".", os.O_PATH) as fd:
            return _Source(path, stat.S_ISDIR(os.fstat(fd.fileno()).st_mode))
    except OSError as error:
        reason = "file does not exist" if error.errno == errno.ENOENT else (error.strerror or "").lower()
        raise NotFoundError(f"stat {pattern.lstrip('/')[:4096]}: {reason}") from None


def _expand(root_fd: int, names: list[bytes]) -> list[bytes]:
    """Return the paths that a pattern means; a name without wildcards is taken as it is."""
    if not any(is_wild(name) for name in names):
        return [b"/".join(names)]
    paths = [b""]
    for name in names:
        below: list[bytes] = []
        for path in paths:
            prefix = path + b"/" if path else b""
            if not is_wild(name):
                below.append(prefix + name)
                continue
            try:
                with open_in_root(root_fd, path or b".", _READ) as fd:
                    there = [os.fsencode(text) for text in os.listdir(fd.fileno())]
            except OSError:
                continue
            below += [prefix + other for other in sorted(there) if matches(name, other)]
        paths = below[: _MOST_SOURCES + 1]
    return [path for path in paths if _is_there(root_fd, path)]


def _is_there(root_fd: int, path: bytes) -> bool:
    try:
        open_in_root(root_fd, path or b".", os.O_PATH | os.O_NOFOLLOW).close()
    except OSError:
        return False
    return True


# What is written.


class _Gatherer(Packer):
    """Writes members as the layer is to have them."""

    def __init__(
        self, out_fd: int, *, owner: tuple[int, int] | None, mode: int | None = None, timeless: bool = False
    ) -> None:
        super().__init__(out_fd, layer=False)
        self._as = owner
        self._mode = mode
        self._timeless = timeless
        self._verbatim = False

    def put_entry(self, entry: Entry) -> None:
        if entry.name.rstrip(b"/").rpartition(b"/")[2].startswith(WHITEOUT):
            raise InvalidParameterError(
                f"cannot be in a layer, names that begin with .wh. are reserved: {shown(entry.name)}"
            )
        if not self._verbatim:
            if self._as is not None:
                entry = replace(entry, uid=self._as[0], gid=self._as[1])
            if self._mode is not None and entry.kind is not Kind.SYMLINK:
                entry = replace(entry, mode=self._mode)
            if self._timeless:
                entry = replace(entry, mtime=0)
        super().put_entry(entry)

    def put_parent(self, entry: Entry) -> None:
        """Write a directory above what is copied, as it is."""
        self._verbatim = True
        self.put_entry(entry)
        self._verbatim = False

    def add_source(self, root_fd: int, source: _Source, path: bytes) -> None:
        """Write a file as ``path``, or what a directory holds below ``path``."""
        if source.directory:
            directory = open_in_root(root_fd, source.path or b".", _READ)
            self.enter(directory.release(), path + b"/" if path else b"")
        else:
            parent, name = _resolve(root_fd, source.path)
            with parent:
                self.add(parent.fileno(), name, path)
        self.drain()


def _resolve(root_fd: int, path: bytes) -> tuple[OwnedFd, bytes]:
    """Return the directory and name of a file, all links followed, also the last one."""
    for _ in range(_MAX_LINKS):
        head, _sep, name = path.rpartition(b"/")
        parent = open_in_root(root_fd, head or b".", os.O_PATH | os.O_DIRECTORY)
        if not stat.S_ISLNK(os.stat(name, dir_fd=parent.fileno(), follow_symlinks=False).st_mode):
            return parent, name
        target = os.readlink(name, dir_fd=parent.fileno())
        parent.close()
        path = _joined(root_fd, head, target)
    raise InvalidParameterError(f"too many links: {shown(path)}")


def _joined(root_fd: int, head: bytes, target: bytes) -> bytes:
    """Return where a link in ``head`` leads, ``..`` counted from where ``head`` really is."""
    base = b"" if target.startswith(b"/") else b"/".join(_follow(root_fd, components(head)).parts)
    return b"/".join(_walk(base, target))


def _walk(base: bytes, target: bytes) -> list[bytes]:
    return components(base + b"/" + target)


def _sum(root_fd: int, found: list[_Source], out_fd: int, *, keep: bool) -> None:
    packer = _Gatherer(out_fd, owner=None if keep else (0, 0), timeless=True)
    for source in found:
        name = source.path.rpartition(b"/")[2] or b"."
        packer.add_source(root_fd, source, name)
    packer.pack()


def _pack(root_fd: int, found: list[_Source], out_fd: int, message: JsonObject) -> None:
    target, text = message.get("target"), os.fsencode(str(message.get("destination")))
    owner_text, mode = str(message.get("owner") or ""), message.get("mode")
    tree = open_view(from_message(OverlayRoot, target)) if isinstance(target, dict) else None
    top = OwnedFd(os.open(".", _READ, dir_fd=tree.fileno())) if tree is not None else None
    try:
        top_fd = -1 if top is None else top.fileno()
        keep = message.get("keep_owner") is True
        owner = (0, 0) if not owner_text else _owner(top_fd, owner_text)
        packer = _Gatherer(
            out_fd, owner=None if keep and not owner_text else owner, mode=mode if isinstance(mode, int) else None
        )
        place = _follow(top_fd, components(text))
        if not found and place.directory:
            packer.pack()  # WORKDIR of what is there: nothing changes
            return
        into = text.endswith((b"/", b"/.")) or len(found) > 1 or not found or place.directory
        if place.exists and not place.directory and (into or any(item.directory for item in found)):
            raise InvalidParameterError(f"cannot copy to non-directory: /{shown(b'/'.join(place.parts))}")
        whole = into or any(item.directory for item in found)
        _put_parents(packer, top_fd, place, whole=whole, owner=owner)
        path = b"/".join(place.parts)
        for source in found:
            name = source.path.rpartition(b"/")[2]
            goes = path if source.directory or not into else b"/".join([part for part in (path, name) if part])
            if not source.directory and not goes:
                raise InvalidParameterError("cannot copy a file to /: name it, or end the destination with a slash")
            packer.add_source(root_fd, source, goes)
        packer.pack()
    finally:
        for fd in (top, tree):
            if fd is not None:
                fd.close()


def _put_parents(packer: _Gatherer, top_fd: int, place: _Destination, *, whole: bool, owner: tuple[int, int]) -> None:
    """Write the directories that lead there: those of the image as they are, missing ones as Docker makes them."""
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
            mtime, mode, ids = now, 0o755, owner
        packer.put_parent(Entry(path + b"/", Kind.DIRECTORY, mode, ids[0], ids[1], mtime))


def _follow(top_fd: int, names: list[bytes]) -> _Destination:
    """Resolve a destination's links inside the image, as far as it exists.

    Raises:
        InvalidParameterError: a file is in the way, or links lead round in a circle.
    """
    pending, done = list(names), list[bytes]()
    existing, links, kind = 0, 0, stat.S_IFDIR
    while pending:
        name = pending.pop(0)
        if top_fd < 0 or existing < len(done):
            done.append(name)
            continue
        if not stat.S_ISDIR(kind):
            raise InvalidParameterError(f"not a directory: /{shown(b'/'.join(done))}")
        try:
            with open_in_root(top_fd, b"/".join([*done, name]), os.O_PATH | os.O_NOFOLLOW) as fd:
                kind = stat.S_IFMT(os.fstat(fd.fileno()).st_mode)
                target = os.readlink(b"", dir_fd=fd.fileno()) if stat.S_ISLNK(kind) else None
        except FileNotFoundError:
            done.append(name)
            continue
        if target is None:
            done.append(name)
            existing = len(done)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidParameterError(f"too many links: /{shown(b'/'.join([*done, name]))}")
        base = b"" if target.startswith(b"/") else b"/".join(done)
        pending = [*_walk(base, target), *pending]
        done, existing, kind = [], 0, stat.S_IFDIR
    return _Destination(tuple(done), existing, existing == len(done) and stat.S_ISDIR(kind))


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
            place = _follow(top.fileno(), components(str(path)))
            depths = range(place.existing + 1, len(place.parts) + 1)
            found += [os.fsdecode(b"/".join(place.parts[:depth])) for depth in depths]
    return found


def _owner(top_fd: int, text: str) -> tuple[int, int]:
    """Read ``--chown``: a user alone names the group of the same name or number, as in Docker."""
    user, colon, group = text.partition(":")
    group = group if colon else user
    if user.isascii() and user.isdigit() and group.isascii() and group.isdigit():
        if len(user) < 11 and len(group) < 11 and int(user) <= MAX_ID and int(group) <= MAX_ID:
            return int(user), int(group)
        raise InvalidParameterError(f"uids and gids must be in range 0-{MAX_ID}: {text[:80]}")
    try:
        if top_fd < 0:
            raise InvalidParameterError("the stage is empty")
        found = resolve_identity(top_fd, f"{user}:{group}")
    except InvalidParameterError as error:
        raise InvalidParameterError(f"unable to convert uid/gid chown string to host mapping: {error}") from None
    return found.uid, found.gid


def _fetch(root_fd: int, found: list[_Source], out_fd: int) -> None:
    """Write the bytes of one file; nothing for anything else."""
    if len(found) != 1 or found[0].directory:
        return
    parent, name = _resolve(root_fd, found[0].path)
    with parent, OwnedFd(os.open(name, _FILE, dir_fd=parent.fileno())) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        while data := os.read(file.fileno(), _PIECE):
            view = memoryview(data)
            while view:
                view = view[os.write(out_fd, view) :]
