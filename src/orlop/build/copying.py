"""COPY and ADD: how their words are read, and the layers that they make."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.build.configuring import absolute
from orlop.build.parser import DockerfileError
from orlop.build.steps import CopyStep
from orlop.errors import InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from orlop.build.configuring import Words
    from orlop.build.instructions import Instruction
    from orlop.build.stage_builder import StageBuilder
    from orlop.build.steps import Gathered, Layer
    from orlop.spec.image import ContainerDefaults

_REMOTE = ("http://", "https://", "ftp://", "git://", "git@", "ssh://")


class CopyInstruction:
    """One COPY or ADD of a stage."""

    def __init__(self, stage: StageBuilder, item: Instruction, words: Words) -> None:
        self._stage = stage
        self._item = item
        self._words = words

    async def do(self) -> bool:
        """Copy, unless the cache has it, which is returned."""
        stage, item, words = self._stage, self._item, self._words
        build = stage.build
        *named, place = [words.one(word) for word in item.words]
        origin = item.flags.get("from", "")
        marks = (
            [word for word in item.words[:-1] if not item.is_json and word.startswith("<<")] if item.heredocs else []
        )
        if marks and len(marks) != len(named):
            raise DockerfileError(item.line, f"here-documents beside files are not supported yet: {item.original}")
        if item.name == "ADD" and any(map(is_remote, named)):
            raise DockerfileError(item.line, f"ADD of a URL is not supported yet: {item.original}")
        if marks:
            docs = [
                doc if not doc.expand else replace(doc, content=_expand_lines(doc.content, words))
                for doc in item.heredocs
            ]
            source, named = build.workshop.write_files(docs), [doc.name for doc in docs]
        else:
            source = await build.tree(origin, stage.stage.index) if origin else build.context
        owner = words.one(item.flags.get("chown", ""))
        keep = bool(origin) and not owner
        try:
            found = await build.workshop.examine(source, named, keep_owner=keep)
        except NotFoundError as error:
            where = (
                ""
                if origin or str(error).startswith("no ")
                else "file not found in build context or excluded by .dockerignore: "
            )
            raise NotFoundError(f"{item.name} failed: {where}{error}") from None
        shown, place = place, copy_place(stage.config, place)
        if found.sources > 1 and not place.endswith("/"):
            where = "the destination must be a directory and end with a /"
            raise InvalidParameterError(f"When using {item.name} with more than one source file, {where}")
        mode = copy_mode(item, words)
        step = CopyStep(source, tuple(named), place, owner=owner, keep_owner=keep, mode=mode)
        kind = "multi" if found.sources > 1 else "dir" if found.directory else "file"
        flags = [
            f"--{name}={value}" for name, value in (("chown", owner), ("chmod", item.flags.get("chmod", ""))) if value
        ]
        told = " ".join((item.name, *flags, f"{kind}:{found.digest}", "in", shown, ""))
        return await stage.settle(stage.nop(told), lambda: self._copy(step, found))

    async def _copy(self, step: CopyStep, found: Gathered) -> Layer:
        item, workshop = self._item, self._stage.build.workshop
        if item.name == "ADD" and not item.heredocs:
            for path in found.files:
                archive = await workshop.open_archive(step.source, path)
                if archive is None:
                    continue
                if found.sources > 1:
                    raise DockerfileError(
                        item.line, f"ADD of an archive beside other files is not supported yet: {path}"
                    )
                place = step.destination.rstrip("/") + "/"
                step = replace(step, source=archive, patterns=(".",), keep_owner=True, destination=place)
        return await workshop.copy(self._stage.image, step)


def copy_place(config: ContainerDefaults, place: str) -> str:
    """Return the destination as an absolute path, whose last slash says that a directory was written."""
    path = absolute(config.working_dir, place)
    directory = place.endswith(("/", "/.")) or place in (".", "")
    return path if not directory or path == "/" else path + "/"


def copy_mode(item: Instruction, words: Words) -> int | None:
    """Read ``--chmod``. Raises DockerfileError."""
    text = words.one(item.flags.get("chmod", ""))
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or set(text) & {"8", "9"} or int(text[:9], 8) > 0o7777:
        raise DockerfileError(
            item.line, f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )
    return int(text[:9], 8)


def is_remote(word: str) -> bool:
    """Tell whether ADD would have to fetch this."""
    return word.startswith(_REMOTE)


def _expand_lines(text: str, words: Words) -> str:
    """Put variables into a here-document; quotes are plain characters there."""
    return words.one(text.replace("'", "\\'").replace('"', '\\"')) if "$" in text else text
