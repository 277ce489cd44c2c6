"""Where a build's result goes beside the engine: ``--output``, ``--cache-to type=local``, ``--metadata-file``."""

from __future__ import annotations

import os
import sys

from orlop.cli.build_request import fields_of
from orlop.cli.files import check_place, write_file
from orlop.cli.invocation import CommandError
from orlop.cli.streaming import write_all
from orlop.errors import OrlopError
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.client.client import Client

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class BuildOutput:
    """One ``--output``.

    Attributes:
        kind: local (a directory of files), tar (of files), oci or docker (an archive of the image), image.
        place: path; ``-`` is standard output.
        unpacked: an archive's content goes into a directory instead.
        push: send the image to its registry.
    """

    kind: str
    place: str = ""
    unpacked: bool = False
    push: bool = False


def read_outputs(texts: Sequence[str]) -> list[BuildOutput]:
    """Read ``--output``. Raises CommandError."""
    found = [_read(text) for text in texts]
    if sum(output.place == "-" for output in found) > 1:
        raise CommandError("only one output can go to standard output")
    for output in found:
        if output.place == "-" and os.isatty(1):
            raise CommandError("refusing to write the output to a terminal: name a file, or redirect")
        if output.place not in ("", "-") and not output.unpacked:
            check_place(output.place)
    return found


def _read(text: str) -> BuildOutput:
    if text == "-":
        return BuildOutput("tar", "-")
    if "=" not in text:
        return BuildOutput("local", text, unpacked=True)
    fields = fields_of(text, "output")
    kind, place = fields.pop("type", ""), fields.pop("dest", "")
    plain = fields.pop("tar", "true").lower() not in ("true", "1")
    push = fields.pop("push", "false").lower() in ("true", "1") or kind == "registry"
    if fields:
        raise CommandError(f"unsupported field of --output: {min(fields)}: {text}")
    if kind in ("image", "registry"):
        return BuildOutput("image", push=push)
    if kind == "docker" and not place:
        return BuildOutput("image")
    if kind not in ("local", "tar", "oci", "docker"):
        raise CommandError(f"unsupported type of --output: {text}: local, tar, oci, docker, image or registry")
    if kind == "tar" and not place:
        place = "-"
    if not place:
        raise CommandError(f"dest is required for {kind} output")
    if plain and kind == "tar":
        raise CommandError(f"unsupported field of --output: tar: {text}")
    return BuildOutput(kind, place, unpacked=plain or kind == "local")


def deliver(client: Client, output: BuildOutput, image: str, tags: Sequence[str]) -> None:
    """Bring one output where it goes.

    Raises:
        CommandError: it cannot be written.
        OrlopError: the engine refused.
    """
    if output.kind == "image":
        return
    names = list(tags) or [image]
    with client.builds.tree(image) if output.kind in ("local", "tar") else client.images.save(names) as response:
        if output.unpacked:
            unpack(response.chunks(), output.place)
        elif output.place == "-":
            sys.stdout.flush()
            for chunk in response.chunks():
                write_all(1, chunk)
        else:
            write_file(response.chunks(), output.place)


def unpack(chunks: Iterable[bytes], directory: str) -> None:
    """Write a tar's files into a directory, over what is there. Raises CommandError."""
    from orlop.primitives.tar import Rules, unpack_chunks

    try:
        os.makedirs(directory, exist_ok=True)
        root = os.open(directory, _DIRECTORY)
    except OSError as error:
        raise CommandError(f"failed to write output: {(error.strerror or '').lower()}: {directory}") from None
    try:
        unpack_chunks(root, chunks, rules=Rules(layer=False, own=False, keep_kinds=True, cross=True))
    except OrlopError as error:
        raise CommandError(f"failed to write output: {error}") from None
    finally:
        os.close(root)


def write_metadata(path: str, image: str, tags: Sequence[str]) -> None:
    """Write ``--metadata-file`` in BuildKit's words. Raises CommandError."""
    import json

    from orlop.primitives.atomic import write_atomic

    document = {"containerimage.config.digest": image, "containerimage.digest": image}
    if tags:
        document["image.name"] = ",".join(tags)
    try:
        write_atomic(os.path.abspath(path), json.dumps(document, indent=2).encode() + b"\n")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {(error.strerror or '').lower()}") from None
