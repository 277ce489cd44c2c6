"""COPY and ADD: how their words are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.build.configuring import absolute
from orlop.build.parser import DockerfileError

if TYPE_CHECKING:
    from orlop.build.configuring import Words
    from orlop.build.instructions import Instruction
    from orlop.spec.image import ContainerDefaults

_REMOTE = ("http://", "https://", "ftp://", "git://", "git@", "ssh://")


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
