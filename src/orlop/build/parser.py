"""A Dockerfile's text becomes lines: directives, comments, continuations, flags and here-documents. No I/O.

Linear in the text: what looks ahead (continuation, here-documents) takes each line once. The words of errors are
Docker's; each names the line.

Source: https://docs.docker.com/reference/dockerfile/ (format, parser directives, here-documents).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from orlop.build.expansion import split_words
from orlop.build.suggestions import hint
from orlop.errors import InvalidParameterError

SIZE_LIMIT = 4 << 20
INSTRUCTIONS = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"),
        *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    )
)
_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=(.*)", re.ASCII)
_DIRECTIVES = frozenset(("syntax", "escape", "check"))
_WITH_HEREDOCS = frozenset(("RUN", "COPY", "ADD"))
_HEREDOC = re.compile(r"""[0-9]{0,9}<<(-?)("[^"<\s]+"|'[^'<\s]+'|[^"'<\s\\]+)""")
_FLAG_NAME = re.compile(r"--[a-zA-Z][a-zA-Z-]*")


class DockerfileError(InvalidParameterError):
    """The text is no Dockerfile; the message names the line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"dockerfile parse error on line {line}: {text}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Heredoc:
    """One here-document: ``content`` with its last newline; ``expand`` unless its name was quoted."""

    name: str
    content: str
    expand: bool


class Line(NamedTuple):
    """One instruction; a tuple, since a file may hold ten thousand and more.

    Attributes:
        number: of its first line, from 1.
        name: upper case.
        keyword: the name as written.
        flags: as written, in order: ``--from=x``.
        text: what follows the flags, continuations joined.
        original: the instruction as written, continuations joined.
        heredocs: in the order of their marks.
        comment: the rows of comment right above, without their marks.
        trigger: of ONBUILD: the instruction that it holds.
    """

    number: int
    name: str
    keyword: str
    flags: tuple[str, ...]
    text: str
    original: str
    heredocs: tuple[Heredoc, ...]
    comment: tuple[str, ...] = ()
    trigger: Line | None = None


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """What a text says.

    Attributes:
        lines: its instructions.
        escape: the character that escapes.
        check: value of the directive of this name.
        empty_continuations: numbers of the instructions that have empty lines within.
    """

    lines: tuple[Line, ...]
    escape: str = "\\"
    check: str = ""
    empty_continuations: tuple[int, ...] = ()


def parse(data: bytes, *, name: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile.

    Args:
        data: UTF-8, with or without byte order mark; what is no UTF-8 is replaced.
        name: of the file, for messages.

    Raises:
        DockerfileError: with Docker's words.
        InvalidParameterError: empty, or larger than :data:`SIZE_LIMIT`.
    """
    if len(data) > SIZE_LIMIT:
        raise InvalidParameterError(f"the Dockerfile ({name}) is larger than {SIZE_LIMIT} bytes")
    rows = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split("\n")
    if not data.strip():
        raise InvalidParameterError(f"the Dockerfile ({name}) cannot be empty")
    rows = [row.removesuffix("\r") for row in rows]
    directives = read_directives(rows)
    reader = _Reader(rows, directives.get("escape", "\\"), begin=len(directives))
    lines = tuple(reader.lines())
    if not lines:
        raise InvalidParameterError(f"dockerfile parse error: file with no instructions: {name}")
    return Dockerfile(lines, reader.escape, directives.get("check", ""), tuple(reader.empty_continuations))


def parse_line(text: str, *, number: int) -> Line:
    """Read one instruction that stands alone: an image's trigger, with its here-documents. Raises DockerfileError."""
    lines = list(_Reader(text.split("\n"), "\\", first=number).lines())
    if len(lines) != 1:
        raise DockerfileError(number, f"not one instruction: {text[:80]}")
    return lines[0]


def read_directives(rows: list[str]) -> dict[str, str]:
    """Return the directives at the top of a file. Raises DockerfileError."""
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        match = _DIRECTIVE.fullmatch(row.strip())
        key = match[1].lower() if match else ""
        if match is None or key not in _DIRECTIVES:
            break
        if key in found:
            raise DockerfileError(number, f"only one {key} parser directive can be used")
        found[key] = match[2].strip()
        if key == "escape" and found[key] not in ("\\", "`"):
            raise DockerfileError(number, f"invalid ESCAPE '{found[key][:40]}' does not match ` or \\")
    return found


class _Reader:
    def __init__(self, rows: list[str], escape: str, *, first: int = 1, begin: int = 0) -> None:
        self.escape = escape
        self._rows = rows
        self._next = begin
        self._first = first
        self._comment: list[str] = []
        self.empty_continuations: list[int] = []

    def lines(self) -> list[Line]:
        found = []
        while (joined := self._joined()) is not None:
            number, text = joined
            comment = tuple(self._comment) if self._comment else ()
            found.append(self._line(number, text, comment))
        return found

    def _joined(self) -> tuple[int, str] | None:
        """Return the next instruction with its continuations, without comments and empty lines."""
        comment: list[str] = []
        self._comment = comment
        rows, at, last, escape = self._rows, self._next, len(self._rows), self.escape
        while at < last:
            row = rows[at]
            at += 1
            bare = row.strip()
            if not bare:
                comment.clear()
            elif bare[0] == "#":
                comment.append(bare[1:].strip())
            else:
                self._next = at
                number = at - 1 + self._first
                # the end of nearly all instructions is that of their first row
                text = bare if bare[-1] != escape else self._with_continuations(number, row.lstrip())
                # a last line that holds nothing but the mark of continuation is none
                return (number, text) if text else None
        self._next = at
        return None

    def _with_continuations(self, number: int, row: str) -> str:
        piece, goes_on = self._continued(row)
        parts, empty = [piece], False
        while goes_on and self._next < len(self._rows):
            row = self._rows[self._next]
            self._next += 1
            bare = row.strip()
            if not bare or bare[0] == "#":
                empty = empty or not bare
                continue
            piece, goes_on = self._continued(row)
            parts.append(piece)
        if empty:
            self.empty_continuations.append(number)
        return "".join(parts).strip()

    def _continued(self, row: str) -> tuple[str, bool]:
        bare = row.rstrip(" \t")
        if not bare.endswith(self.escape) or bare.endswith(self.escape * 2):
            return row, False
        return bare[:-1], True

    def _line(self, number: int, text: str, comment: tuple[str, ...] = (), *, triggered: bool = False) -> Line:
        keyword, rest = _head(text)
        name = keyword.upper()
        if name not in INSTRUCTIONS:
            raise DockerfileError(number, f"unknown instruction: {name[:80]}{hint(name, INSTRUCTIONS)}")
        if name == "ONBUILD":
            if triggered:
                raise DockerfileError(number, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
            trigger = self._line(number, rest, triggered=True) if rest else None
            return Line(number, name, keyword, (), rest, text, (), comment, trigger)
        heredocs = tuple(self._heredocs(number, rest)) if "<<" in rest and name in _WITH_HEREDOCS else ()
        flags: tuple[str, ...] = ()
        if rest.startswith("--"):
            flags, rest = _flags(rest)
        return Line(number, name, keyword, flags, rest, text, heredocs, comment)

    def _heredocs(self, number: int, text: str) -> list[Heredoc]:
        if text.startswith("["):
            return []
        found = []
        for match in map(_HEREDOC.fullmatch, split_words(text, escape=self.escape)):
            if match is None:
                continue
            word = match[2]
            quoted = word[0] in "'\""
            name = word[1:-1] if quoted else word
            found.append(Heredoc(name, self._body(number, name, tabs=bool(match[1])), expand=not quoted))
        return found

    def _body(self, number: int, name: str, *, tabs: bool) -> str:
        rows: list[str] = []
        while self._next < len(self._rows):
            row = self._rows[self._next]
            self._next += 1
            row = row.lstrip("\t") if tabs else row
            if row == name:
                return "".join(f"{line}\n" for line in rows)
            rows.append(row)
        raise DockerfileError(number, f"unterminated heredoc: {name[:80]}")


def _head(text: str) -> tuple[str, str]:
    """Return the first word and what follows it; the text has no blanks around it."""
    parts = text.split(None, 1)
    return (parts[0], parts[1]) if len(parts) == 2 else (text, "")


def _flags(text: str) -> tuple[tuple[str, ...], str]:
    """Take the flags off: words that begin with ``--``; a bare ``--`` ends them. Quotes hold a value together."""
    flags = []
    at = 0
    while _FLAG_NAME.match(text, at):
        start, quote = at, ""
        while at < len(text) and (quote or text[at] not in " \t"):
            char = text[at]
            if quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
            at += 1
        flags.append("".join(char for char in text[start:at] if char not in "'\""))
        while at < len(text) and text[at] in " \t":
            at += 1
    rest = text[at:]
    if rest == "--" or rest.startswith(("-- ", "--\t")):
        rest = rest[2:].lstrip()
    return tuple(flags), rest
