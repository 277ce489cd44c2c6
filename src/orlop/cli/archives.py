"""``import``, ``export``, ``save``, ``load``."""

from __future__ import annotations

import os
import sys

from orlop.cli.files import check_place, write_file
from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation
from orlop.cli.streaming import write_all
from orlop.errors import InvalidParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.client.connection import Response

_OUTPUT = Flag("output", "Write to this file instead of standard output", short="o", kind="string")


def _import(invocation: Invocation) -> int:
    from orlop.cli.progress import read_with_bar, show

    options = invocation.options
    source, name = invocation.arguments[0], (invocation.arguments[1:] or [""])[0]
    if name:
        _check_name(name)
    images = invocation.client.images
    changes, message, platform = options.texts("change"), options.text("message"), options.text("platform")
    if source.startswith(("http://", "https://", "ftp://")):
        progress = images.import_archive(
            None, source=source, repository=name, changes=changes, message=message, platform=platform
        )
        show(progress)
        return 0
    try:
        file = sys.stdin.buffer if source == "-" else open(source, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise CommandError(f"open {source}: {(error.strerror or '').lower()}") from None
    with file:
        size = 0 if source == "-" else os.fstat(file.fileno()).st_size
        pieces = read_with_bar(file, size=size, label="importing")
        progress = images.import_archive(pieces, repository=name, changes=changes, message=message, platform=platform)
        show(progress)
    return 0


def _check_name(name: str) -> None:
    from orlop.spec.reference import parse_reference

    try:
        parse_reference(name)
    except InvalidParameterError as error:
        raise CommandError(str(error)) from None


def _export(invocation: Invocation) -> int:
    return _write(invocation, lambda: invocation.client.containers.export(invocation.arguments[0]))


def _save(invocation: Invocation) -> int:
    return _write(invocation, lambda: invocation.client.images.save(invocation.arguments))


def _write(invocation: Invocation, begin: Callable[[], Response]) -> int:
    """Write a stream to ``--output``, through a temporary file beside it, or to standard output."""
    output = invocation.options.text("output")
    if not output:
        if os.isatty(1):
            raise CommandError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        with begin() as response:
            _copy(response, 1)
        return 0
    check_place(output)
    with begin() as response:
        write_file(response.chunks(), output, private=True)
    return 0


def _copy(response: Response, descriptor: int) -> None:
    for chunk in response.chunks():
        write_all(descriptor, chunk)


def _load(invocation: Invocation) -> int:
    from orlop.cli.progress import read_with_bar, show

    options = invocation.options
    source = options.text("input")
    if not source and os.isatty(0):
        raise CommandError("requested load from stdin, but stdin is empty")
    try:
        file = open(source, "rb") if source else sys.stdin.buffer  # noqa: SIM115 - closed below
    except OSError as error:
        raise CommandError(f"open {source}: {(error.strerror or '').lower()}") from None
    with file:
        size = os.fstat(file.fileno()).st_size if source else 0
        pieces = read_with_bar(file, size=size, label="loading")
        show(invocation.client.images.load(pieces, quiet=options.on("quiet")))
    return 0


IMPORT = Command(
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Make an image of a tar archive",
    _import,
    flags=(
        Flag("change", "Apply a Dockerfile instruction to the image", short="c", kind="list"),
        Flag("message", "Set the comment of its history", short="m", kind="string"),
        Flag("platform", "Platform of the image, os/architecture", kind="string"),
    ),
    arguments=(1, None),
)
EXPORT = Command(
    "[OPTIONS] CONTAINER",
    "Write a container's file system as a tar archive",
    _export,
    flags=(_OUTPUT,),
    arguments=(1, 1),
)
SAVE = Command("[OPTIONS] IMAGE [IMAGE...]", "Write images to an archive", _save, flags=(_OUTPUT,), arguments=(1, None))
LOAD = Command(
    "[OPTIONS]",
    "Read images from an archive made by save",
    _load,
    flags=(
        Flag("input", "Read this file instead of standard input", short="i", kind="string"),
        Flag("quiet", "Show no progress", short="q"),
    ),
)
