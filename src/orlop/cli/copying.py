"""``cp``: files between a container and the host, with Docker's rules of what ends up where.

Owners are as Docker's manual has them, not as its client does it: what comes into a container belongs to root, what
comes out belongs to who runs the command, and ``--archive`` keeps the source's owners in both directions.
"""

from __future__ import annotations

import os
import stat

from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, write_error
from orlop.cli.streaming import tar_pieces
from orlop.cli.units import human_size
from orlop.errors import NotFoundError, OrlopError
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GO_DIRECTORY, _GO_LINK, _GO_TYPES = 1 << 31, 1 << 27, (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19)
_PIECE = 1 << 18


@dataclass(frozen=True)
class Info:
    """One end of a copy.

    Attributes:
        path: absolute, with its trailing slash or ``/.``.
        exists: whether something is there.
        directory: whether that is a directory.
        name: what the source is called at the other end, where a link was followed; else empty.
    """

    path: str
    exists: bool
    directory: bool
    name: str = ""


def split_argument(text: str) -> tuple[str, str]:
    """Split ``CONTAINER:PATH``; the container is empty for a path of this machine."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return "", text
    return container, path


def place(source: Info, target: Info) -> tuple[str, str]:
    """Return the directory to unpack into, and the name that the source gets there; empty for its own.

    Raises:
        CommandError: in Docker's words.
    """
    if target.exists and target.directory:
        return target.path, source.name
    directory, name = split_path(target.path)
    if target.exists and source.directory:
        raise CommandError("cannot copy directory")
    if not target.exists and not source.directory and asserts_directory(target.path):
        raise CommandError("no such directory")
    return directory, name


def asserts_directory(path: str) -> bool:
    """Tell whether the path is written as a directory's."""
    return path.endswith("/") or path.rpartition("/")[2] == "."


def split_path(path: str) -> tuple[str, str]:
    """Split into directory and name, ``.`` at the end being a name."""
    clean = os.path.normpath(path)
    if path.endswith("/.") or path == ".":
        return clean, "."
    return os.path.dirname(clean), os.path.basename(clean)


def _cp(invocation: Invocation) -> int:
    source_container, source = split_argument(invocation.arguments[0])
    target_container, target = split_argument(invocation.arguments[1])
    for text in (source, target):
        if not text:
            raise CommandError("source can not be empty" if text is source else "destination can not be empty")
    if source_container and target_container:
        raise CommandError("copying between containers is not supported")
    if source_container:
        return _copy_out(invocation, source_container, source, target)
    if target_container:
        return _copy_in(invocation, source, target_container, target)
    raise CommandError("must specify at least one container source")


# Out of a container.


def _copy_out(invocation: Invocation, container: str, source: str, target: str) -> int:
    containers = invocation.client.containers
    name = ""
    if invocation.options.on("follow-link"):
        found = containers.stat_path(container, source)
        if found.mode & _GO_LINK:
            name, source = split_path(source)[1], found.link_target + ("/." if source.endswith("/.") else "")
    if target != "-":
        _check_output(_absolute(target))
    found, response = containers.get_archive(container, source)
    with response:
        if target == "-":
            if os.isatty(1):
                raise CommandError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
            from orlop.cli.streaming import write_all

            for piece in response.chunks():
                write_all(1, piece)
            return 0
        where = _absolute(target)
        info = Info(source, exists=True, directory=bool(found.mode & _GO_DIRECTORY), name=name)
        counted = _Counted(response.chunks())
        _unpack(counted, info, _local_target(where), keep_owners=invocation.options.on("archive"))
    _tell(invocation, counted.size, where)
    return 0


def _check_output(path: str) -> None:
    directory = os.path.dirname(os.path.normpath(path))
    if directory and not os.path.exists(directory):
        raise CommandError(f'invalid output path: directory "{directory}" does not exist')
    if os.path.exists(path):
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise CommandError(f'invalid output path: "{path}" must be a directory or a regular file')


def _local_target(path: str) -> Info:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Info(os.path.realpath(path) + ("/" if asserts_directory(path) else ""), exists=False, directory=False)
    except OSError as error:
        raise CommandError(f"stat {path}: {(error.strerror or '').lower()}") from None
    if not stat.S_ISDIR(mode):
        path = os.path.realpath(path)
    return Info(path, exists=True, directory=stat.S_ISDIR(mode))


def _unpack(chunks: Iterable[bytes], source: Info, target: Info, *, keep_owners: bool) -> None:
    from orlop.primitives.tar import Rules, unpack_chunks

    directory, name = place(source, target)
    own_name = split_path(source.path)[1]
    rename = (os.fsencode(own_name), os.fsencode(name)) if name else None
    try:
        root = os.open(directory, _DIRECTORY)
    except OSError as error:
        raise CommandError(f"open {directory}: {(error.strerror or '').lower()}") from None
    try:
        rules = Rules(layer=False, own=keep_owners, keep_kinds=True, cross=True, rename=rename)
        unpack_chunks(root, chunks, rules=rules)
    except OrlopError as error:
        raise CommandError(str(error)) from None
    finally:
        os.close(root)


# Into a container.


def _copy_in(invocation: Invocation, source: str, container: str, target: str) -> int:
    info = _container_target(invocation, container, target)
    if source == "-":
        if not info.directory:
            raise CommandError(f'destination "{container}:{target}" must be a directory')
        counted = _Counted(iter(lambda: os.read(0, _PIECE), b""))
        invocation.client.containers.put_archive(container, info.path, counted, keep_kinds=True)
    else:
        path = _absolute(source)
        link = invocation.options.on("follow-link") or asserts_directory(source)
        try:
            status = os.stat(path) if link else os.lstat(path)
        except OSError as error:
            raise CommandError(f"lstat {path}: {(error.strerror or '').lower()}") from None
        origin = Info(path, exists=True, directory=stat.S_ISDIR(status.st_mode))
        directory, name = place(origin, info)
        if not name:
            name = split_path(path)[1] or "/"
        owner = None if invocation.options.on("archive") else (0, 0)
        real = os.path.realpath(path) if link else os.path.normpath(path)
        counted = _Counted(_pack(real, os.fsencode(name), owner))
        invocation.client.containers.put_archive(container, directory, counted, keep_kinds=True)
    _tell(invocation, counted.size, f"{container}:{info.path}")
    return 0


def _container_target(invocation: Invocation, container: str, path: str) -> Info:
    """Describe where to copy to; a link is followed, what does not exist may be made."""
    try:
        found = invocation.client.containers.stat_path(container, path)
        if found.mode & _GO_LINK:
            path = found.link_target
            found = invocation.client.containers.stat_path(container, path)
    except NotFoundError as error:
        if "No such container" in str(error):
            raise
        return Info(path, exists=False, directory=False)
    if found.mode & _GO_TYPES:
        raise CommandError(f'destination "{container}:{path}" must be a directory or a regular file')
    return Info(path, exists=True, directory=bool(found.mode & _GO_DIRECTORY))


def _pack(path: str, member: bytes, owner: tuple[int, int] | None) -> Iterator[bytes]:
    """Yield the tar of a file or directory."""
    from orlop.primitives.tar import pack_member

    parent = os.open(os.path.dirname(path), _DIRECTORY)
    name = os.fsencode(os.path.basename(path)) or b"."
    try:
        yield from tar_pieces(lambda out: pack_member(parent, name, out, member=member.rstrip(b"/"), owner=owner))
    finally:
        os.close(parent)


class _Counted:
    """Passes pieces on and counts their bytes."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            yield piece


def _absolute(path: str) -> str:
    """Make absolute and clean, but keep a trailing slash or ``/.``."""
    clean = os.path.abspath(path)
    if path.endswith("/.") or path == ".":
        return f"{clean.rstrip('/')}/."
    return f"{clean.rstrip('/')}/" if path.endswith("/") else clean


def _tell(invocation: Invocation, size: int, where: str) -> None:
    if not invocation.options.on("quiet") and os.isatty(2):
        write_error(f"Successfully copied {human_size(size)} to {where}")


CP = Command(
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-",
    "Copy files between a container and the host; - is a tar stream",
    _cp,
    flags=(
        Flag("archive", "Keep the owners of the source", short="a"),
        Flag("follow-link", "Follow a link that the source is", short="L"),
        Flag("quiet", "Do not say what was copied", short="q"),
    ),
    arguments=(2, 2),
)
