"""The context of a build: the files of a directory without what .dockerignore names, told by their digests.

Only what the engine does not have travels (docs/reference/builds.md). A large file is not read again as long as its
inode, size and times are those of the last build: what its digest was is kept below the user's cache directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from orlop.build.ignore import IgnoreRules, parse_ignore
from orlop.cli.invocation import CommandError
from orlop.errors import InvalidParameterError
from orlop.primitives.tar.rules import is_kept_xattr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.client.builds import Builds

_IGNORE = ".dockerignore"
_PIECE = 1 << 18
_LARGE = 1 << 20
_MOST_REMEMBERED = 10_000

Row = list[object]


class Files:
    """The files of one context, as a manifest.

    Attributes:
        rows: the manifest's entries.
        paths: where to read a content, by its digest.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.paths: dict[str, str] = {}
        self._data: dict[str, bytes] = {}

    def put_text(self, path: str, data: bytes) -> None:
        """Add a file that is none here."""
        digest = hashlib.sha256(data).hexdigest()
        self._data[digest] = data
        self.rows.append([_latin(os.fsencode(path)), "f", 0o644, 0, len(data), digest])

    def manifest(self) -> bytes:
        """Return the manifest."""
        return json.dumps(self.rows, separators=(",", ":")).encode()

    def frames(self, digests: Iterable[str]) -> Iterator[bytes]:
        """Yield the contents of these digests as the engine reads them. Raises CommandError."""
        for digest in digests:
            head = bytes.fromhex(digest)
            if digest in self._data:
                yield head + len(self._data[digest]).to_bytes(8, "big") + self._data[digest]
                continue
            try:
                with open(self.paths[digest], "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    yield head + size.to_bytes(8, "big")
                    while size and (data := file.read(min(size, _PIECE))):
                        size -= len(data)
                        yield data
            except OSError as error:
                raise CommandError(f"error from sender: {(error.strerror or '').lower()}: {error.filename}") from None

    def send(self, builds: Builds, session: str, name: str) -> int:
        """Bring the engine what it does not have; returns how many files that were."""
        missing = builds.announce(session, name, self.manifest())
        if missing:
            builds.send(session, self.frames(missing))
        return len(missing)


class Context:
    """A directory to send.

    Args:
        directory: on this machine.
        dockerfile: path of the Dockerfile; empty for the one in the directory, ``-`` for what ``text`` holds.
        text: a Dockerfile that is no file.

    Attributes:
        dockerfile: its path in the context, or in a context of its own.
        own: the Dockerfile in a context of its own, when it is not among the files; else None.

    Raises:
        CommandError: no such directory or Dockerfile, or a malformed .dockerignore.
    """

    def __init__(self, directory: str, dockerfile: str, *, text: bytes = b"") -> None:
        self._directory = os.path.realpath(directory)
        if not os.path.isdir(self._directory):
            raise CommandError(f'unable to prepare context: path "{directory}" not found')
        self.own: Files | None = None
        path = "" if dockerfile == "-" else os.path.abspath(dockerfile or f"{self._directory}/Dockerfile")
        ignore = ""
        if path:
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            try:
                with open(path, "rb") as file:
                    text = file.read()
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise CommandError(f"unable to prepare context: {reason}: {dockerfile or path}") from None
            ignore = f"{path}.dockerignore"
        self._rules = _read_rules(ignore if os.path.isfile(ignore) else f"{self._directory}/{_IGNORE}")
        self.dockerfile = os.path.relpath(path, self._directory) if path else "Dockerfile"
        inside = path.startswith(f"{self._directory.rstrip('/')}/")
        if not inside or self._rules.ignores(self.dockerfile) or os.path.islink(path):
            self.dockerfile = "Dockerfile"
            self.own = Files()
            self.own.put_text(self.dockerfile, text)

    def files(self) -> Files:
        """Look at all files. Raises CommandError."""
        return scan(self._directory, self._rules)


def scan(directory: str, rules: IgnoreRules | None = None) -> Files:
    """Look at all files of a directory but for those that the rules ignore.

    Raises:
        CommandError: one cannot be read.
    """
    memory = _Memory(directory)
    found = Files()
    try:
        _Scan(found, rules or IgnoreRules(()), memory).run(os.path.realpath(directory), "")
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise CommandError(f"unable to prepare context: {reason}: {error.filename}") from None
    memory.save()
    return found


class _Scan:
    def __init__(self, found: Files, rules: IgnoreRules, memory: _Memory) -> None:
        self._found = found
        self._rules = rules
        self._memory = memory

    def run(self, top: str, prefix: str) -> None:
        with os.scandir(top) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
        for child in children:
            path = prefix + child.name
            ignored = self._rules.ignores(path)
            directory = child.is_dir(follow_symlinks=False)
            if ignored and not (directory and self._rules.has_exceptions):
                continue
            count = len(self._found.rows)
            if directory:
                self._found.rows.append(_row(path, "d", child.stat(follow_symlinks=False), child.path))
                self.run(child.path, f"{path}/")
                if ignored and len(self._found.rows) == count + 1:
                    self._found.rows.pop()  # nothing below it was brought back
            else:
                self._add(child, path)

    def _add(self, child: os.DirEntry[str], path: str) -> None:
        status = child.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(os.fsencode(child.path))
            self._found.rows.append([*_row(path, "l", status, ""), 0, _latin(target)])
        elif stat.S_ISFIFO(status.st_mode):
            self._found.rows.append(_row(path, "p", status, ""))
        elif stat.S_ISREG(status.st_mode):
            digest = self._memory.digest(child.path, status)
            self._found.paths[digest] = child.path
            row = [*_row(path, "f", status, ""), status.st_size, digest]
            xattrs = _xattrs(child.path)
            self._found.rows.append([*row, xattrs] if xattrs else row)


def _row(path: str, kind: str, status: os.stat_result, place: str) -> Row:
    row: Row = [_latin(os.fsencode(path)), kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns]
    xattrs = _xattrs(place) if place else {}
    return [*row, 0, "", xattrs] if xattrs else row


def _xattrs(path: str) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        kept = [name for name in names if is_kept_xattr(os.fsencode(name))]
        return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in kept}
    except OSError:
        return {}


def _latin(name: bytes) -> str:
    return name.decode("latin-1")


class _Memory:
    """Digests of large files as they were at the last build; the file is worth nothing if it cannot be read."""

    def __init__(self, directory: str) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/nonexistent", ".cache")
        name = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:32]
        self._path = os.path.join(home, "orlop", "contexts", f"{name}.json")
        self._old: dict[str, object] | None = None
        self._new: dict[str, object] = {}

    def digest(self, path: str, status: os.stat_result) -> str:
        """Return the digest of a file's content."""
        if status.st_size < _LARGE:
            return _digest(path)
        if self._old is None:
            self._old = self._load()
        stamp = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._old.get(path)
        if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str) and len(known[-1]) == 64:
            self._new[path] = known
            return known[-1]
        digest = _digest(path)
        self._new[path] = [*stamp, digest]
        return digest

    def _load(self) -> dict[str, object]:
        try:
            with open(self._path, "rb") as file:
                document = json.loads(file.read(64 << 20))
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def save(self) -> None:
        """Remember what was found."""
        if not self._new or self._new == self._old or len(self._new) > _MOST_REMEMBERED:
            return
        from orlop.primitives.atomic import write_atomic

        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            write_atomic(self._path, json.dumps(self._new).encode(), 0o600)
        except OSError:
            return  # then it is read again


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE):
            digest.update(data)
    return digest.hexdigest()


def _read_rules(path: str) -> IgnoreRules:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return parse_ignore(file.read())
    except FileNotFoundError:
        return IgnoreRules(())
    except InvalidParameterError as error:
        raise CommandError(f"error checking context: {path}: {error}") from None
