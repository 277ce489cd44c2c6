"""COPY and ADD: how their words are read, and the layers that they make."""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.build.configuring import absolute
from orlop.build.parser import DockerfileError
from orlop.build.steps import CopyPart, CopyStep, Gathered
from orlop.errors import InvalidParameterError, NotFoundError
from orlop.primitives.permissions import Permissions

if TYPE_CHECKING:
    from orlop.build.configuring import Words
    from orlop.build.instructions import Instruction
    from orlop.build.parser import Heredoc
    from orlop.build.stage_builder import StageBuilder
    from orlop.build.steps import Download, Layer, Workshop
    from orlop.spec.image import ContainerDefaults

_HTTP = ("http://", "https://")
_GIT = re.compile(
    r"(?:git://|ssh://|github\.com/|[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:)|https?://[^#]*\.git(?:#.*)?\Z", re.ASCII
)
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def wants_context(item: Instruction) -> bool:
    """Tell whether an instruction copies of the context for sure, as far as words that are not expanded tell."""
    if item.name not in ("ADD", "COPY") or "from" in item.flags:
        return False
    elsewhere = ("<<", *_HTTP) if item.name == "ADD" else ("<<",)
    return any(
        not (source.startswith(elsewhere) or "$" in source or (item.name == "ADD" and _GIT.match(source)))
        for source in item.words[:-1]
    )


@dataclass(slots=True)
class _Piece:
    """Some of the sources: what they are, and how to get those that the cache may know without."""

    part: CopyPart | None
    found: Gathered
    url: str = ""


class CopyInstruction:
    """One COPY or ADD of a stage."""

    def __init__(self, stage: StageBuilder, item: Instruction, words: Words) -> None:
        self._stage = stage
        self._item = item
        self._words = words
        self._exclude = tuple(words.one(text) for text in item.repeated.get("exclude", ()))
        self._parents = item.switched("parents")

    @property
    def _workshop(self) -> Workshop:
        return self._stage.build.workshop

    async def do(self) -> bool:
        """Copy, unless the cache has it, which is returned."""
        stage, item, words = self._stage, self._item, self._words
        *sources, shown = item.words
        place = words.one(shown)
        pieces = await self._pieces(sources, into=place.endswith("/"))
        count = sum(piece.found.sources for piece in pieces)
        path = copy_place(stage.config, place)
        if count > 1 and not path.endswith("/") and not self._parents:
            where = "the destination must be a directory and end with a /"
            raise InvalidParameterError(f"When using {item.name} with more than one source file, {where}")
        owner = words.one(item.flags.get("chown", ""))
        step = CopyStep(
            (),
            path,
            owner=owner,
            mode=copy_mode(item, words),
            parents=self._parents,
            exclude=self._exclude,
            linked=item.switched("link"),
            root_parents=not (item.switched("link") or stage.build.options.like_buildkit),
        )
        told = " ".join((item.name, *self._flags(owner), _sum(pieces, count), "in", place, ""))
        # The shell is in the words of the history, the directory is not: a layer of --link depends on the latter.
        apart = path if step.linked else ""
        variant = "" if step.root_parents or not owner else "parents"
        return await stage.settle(stage.nop(told), lambda: self._copy(step, pieces), variant=variant, apart=apart)

    def _flags(self, owner: str) -> list[str]:
        flags = self._item.flags
        values = [("chown", owner), ("chmod", flags.get("chmod", "")), ("unpack", flags.get("unpack", ""))]
        switches = [f"--{name}" for name in ("link", "parents") if self._item.switched(name)]
        excludes = [f"--exclude={text}" for text in self._exclude]
        return [*(f"--{name}={value}" for name, value in values if value), *switches, *excludes]

    # What is copied.

    async def _pieces(self, sources: list[str] | tuple[str, ...], *, into: bool) -> list[_Piece]:
        item, words = self._item, self._words
        checksum = words.one(item.flags.get("checksum", ""))
        if checksum and (len(sources) != 1 or not words.one(sources[0]).startswith(_HTTP)):
            several = len(sources) != 1
            raise DockerfileError(
                item.line, f"checksum can't be specified for {'multiple' if several else 'non-HTTP(S)'} sources"
            )
        if checksum and _CHECKSUM.fullmatch(checksum) is None:
            raise DockerfileError(item.line, f"invalid checksum: {checksum[:80]}")
        pieces: list[_Piece] = []
        plain: list[str] = []
        documents = list(item.heredocs) if not item.is_json else []
        for source in sources:
            if documents and source.startswith("<<"):
                pieces.append(await self._document(documents.pop(0)))
                continue
            name = words.one(source)
            if item.name == "ADD" and _GIT.match(name):
                pieces.append(await self._repository(name))
            elif item.name == "ADD" and name.startswith(_HTTP):
                pieces.append(await self._remote(name, checksum, into=into))
            elif item.name == "ADD" and name.startswith("ftp://"):
                raise DockerfileError(item.line, f"ADD knows http, https and git: {name[:80]}")
            else:
                plain.append(name)
        if plain:
            pieces.insert(0, await self._plain(plain))
        return pieces

    async def _examined(self, part: CopyPart) -> _Piece:
        found = await self._workshop.examine(part, parents=self._parents, exclude=self._exclude)
        return _Piece(part, found)

    async def _plain(self, names: list[str]) -> _Piece:
        stage, item = self._stage, self._item
        origin = item.flags.get("from", "")
        source = await stage.build.tree(origin, stage.stage.index) if origin else await stage.build.context.get()
        keep = bool(origin) and not item.flags.get("chown")
        try:
            return await self._examined(CopyPart(source, tuple(names), keep))
        except NotFoundError as error:
            where = (
                ""
                if origin or str(error).startswith("no ")
                else "file not found in build context or excluded by .dockerignore: "
            )
            raise NotFoundError(f"{item.name} failed: {where}{error}") from None

    async def _document(self, document: Heredoc) -> _Piece:
        if document.expand:
            document = replace(document, content=_expand_lines(document.content, self._words))
        return await self._examined(CopyPart(self._workshop.write_files([document]), (_literal(document.name),)))

    async def _repository(self, url: str) -> _Piece:
        tree = await self._workshop.clone(url, keep_git=self._item.switched("keep-git-dir"))
        return await self._examined(CopyPart(tree, (".",)))

    async def _remote(self, url: str, checksum: str, *, into: bool) -> _Piece:
        if into and not posixpath.basename(url.partition("?")[0].partition("#")[0]):
            raise DockerfileError(self._item.line, f"cannot determine filename for source {url[:80]}")
        if checksum:
            # What the cache knows need not be fetched: the sum says what it is.
            return _Piece(None, Gathered(checksum.removeprefix("sha256:"), 1, False), url)
        return await self._downloaded(url, await self._workshop.download(url))

    async def _downloaded(self, url: str, download: Download) -> _Piece:
        return replace(await self._examined(CopyPart(download.tree, (_literal(download.name),))), url=url)

    # The layer.

    async def _copy(self, step: CopyStep, pieces: list[_Piece]) -> Layer:
        parts: list[CopyPart] = []
        for piece in pieces:
            parts += await self._parts(await self._fetched(piece))
        if (len(parts) > 1 or step.parents) and not step.destination.endswith("/"):
            step = replace(step, destination=f"{step.destination}/")
        if any(part.patterns == (".",) for part in parts):
            step = replace(step, destination=step.destination.rstrip("/") + "/")
        return await self._workshop.copy(self._stage.image, replace(step, parts=tuple(parts)))

    async def _fetched(self, piece: _Piece) -> _Piece:
        if piece.part is not None:
            return piece
        download = await self._workshop.download(piece.url)
        if download.digest != piece.found.digest:
            wanted, got = f"sha256:{piece.found.digest}", f"sha256:{download.digest}"
            raise InvalidParameterError(f"digest mismatch {got}: {wanted}: {piece.url[:80]}")
        return await self._downloaded(piece.url, download)

    async def _parts(self, piece: _Piece) -> list[CopyPart]:
        """Return what is copied as it is, and what archives hold."""
        part, item = piece.part, self._item
        if part is None:  # never: it was fetched
            return []
        unpack = item.flags.get("unpack", "false" if piece.url else "true") == "true"
        local = item.name == "ADD" and part.patterns != (".",)
        if not (unpack and local) or (not piece.url and part.source is not await self._stage.build.context.get()):
            return [part]
        archives: dict[str, CopyPart] = {}
        for path in piece.found.archives:
            archive = await self._workshop.open_archive(part.source, path)
            if archive is not None:
                archives[path] = CopyPart(archive, (".",), unpacked=True)
        if len(archives) == piece.found.sources:
            return list(archives.values())
        return [replace(part, without=tuple(archives)), *archives.values()]


def _sum(pieces: list[_Piece], count: int) -> str:
    directory = any(piece.found.directory for piece in pieces)
    kind = "multi" if count > 1 else "dir" if directory else "file"
    digests = [piece.found.digest for piece in pieces]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return f"{kind}:{digest}"


def _literal(name: str) -> str:
    return "".join(f"\\{char}" if char in "*?[\\" else char for char in name)


def copy_place(config: ContainerDefaults, place: str) -> str:
    """Return the destination as an absolute path, whose last slash says that a directory was written."""
    path = absolute(config.working_dir, place)
    directory = place.endswith(("/", "/.")) or place in (".", "")
    return path if not directory or path == "/" else path + "/"


def copy_mode(item: Instruction, words: Words) -> str:
    """Read ``--chmod``. Raises DockerfileError."""
    text = words.one(item.flags.get("chmod", ""))
    if text:
        try:
            Permissions(text)
        except InvalidParameterError as error:
            raise DockerfileError(item.line, str(error)) from None
    return text


def _expand_lines(text: str, words: Words) -> str:
    """Put variables into a here-document; quotes are plain characters there."""
    return words.one(text.replace("'", "\\'").replace('"', '\\"')) if "$" in text else text
