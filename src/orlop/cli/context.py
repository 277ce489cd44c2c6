"""The context of a build as a tar: a directory without what .dockerignore names."""

from __future__ import annotations

import os
import stat

from orlop.build.ignore import IgnoreRules, parse_ignore
from orlop.cli.invocation import CommandError
from orlop.cli.streaming import tar_pieces
from orlop.errors import InvalidParameterError
from orlop.primitives.tar.pack import Packer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_IGNORE = ".dockerignore"


class _ContextPacker(Packer):
    def __init__(self, out_fd: int, rules: IgnoreRules, always: frozenset[str]) -> None:
        super().__init__(out_fd, layer=False, owner=(0, 0))
        self._rules = rules
        self._always = always

    def add(self, fd: int, name: bytes, path: bytes, *, descend: bool = True) -> None:
        text = os.fsdecode(path)
        if text in self._always or not self._rules.ignores(text):
            super().add(fd, name, path, descend=descend)
            return
        inside = self._rules.has_exceptions or any(kept.startswith(f"{text}/") for kept in self._always)
        if inside and stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            self.enter(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), path + b"/")


class Context:
    """A directory to send.

    Args:
        directory: on this machine.
        dockerfile: path of the Dockerfile; empty for the one in the directory, ``-`` for what ``text`` holds.
        text: a Dockerfile that is no file.

    Attributes:
        dockerfile: its path in the context.

    Raises:
        CommandError: no such directory or Dockerfile, or a malformed .dockerignore.
    """

    def __init__(self, directory: str, dockerfile: str, *, text: bytes = b"") -> None:
        self._directory = os.path.realpath(directory)
        if not os.path.isdir(self._directory):
            raise CommandError(f'unable to prepare context: path "{directory}" not found')
        self._extra: bytes | None = None
        path = "" if dockerfile == "-" else os.path.abspath(dockerfile or f"{self._directory}/Dockerfile")
        if not path:
            self._extra = text
            ignore = ""
        else:
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            if not os.path.exists(path):
                raise CommandError(f"unable to prepare context: no such file or directory: {dockerfile or path}")
            ignore = f"{path}.dockerignore"
        inside = path.startswith(f"{self._directory.rstrip('/')}/")
        if path and not inside:
            with open(path, "rb") as file:
                self._extra = file.read()
        name = f".dockerfile.{os.urandom(10).hex()}"
        self.dockerfile = name if self._extra is not None else os.path.relpath(path, self._directory)
        self._rules = _read_rules(ignore if os.path.isfile(ignore) else f"{self._directory}/{_IGNORE}")

    def pieces(self) -> Iterator[bytes]:
        """Yield the tar's bytes. Raises CommandError."""
        return tar_pieces(self._pack)

    def _pack(self, out_fd: int) -> None:
        packer = _ContextPacker(out_fd, self._rules, frozenset((self.dockerfile, _IGNORE)))
        if self._extra is not None:
            packer.put_file(os.fsencode(self.dockerfile), self._extra)
        packer.enter(os.open(self._directory, _DIRECTORY), b"")
        packer.pack()


def _read_rules(path: str) -> IgnoreRules:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return parse_ignore(file.read())
    except FileNotFoundError:
        return IgnoreRules(())
    except InvalidParameterError as error:
        raise CommandError(f"error checking context: {path}: {error}") from None
