"""``orlop run`` and ``orlop create``."""

from __future__ import annotations

import os

from orlop.cli.bodies import create_document, failure
from orlop.cli.flags import Command
from orlop.cli.invocation import CommandError, Invocation, write_error, write_out
from orlop.cli.run_flags import CREATE_FLAGS, RUN_FLAGS
from orlop.cli.streaming import Session
from orlop.cli.terminal import parse_detach_keys, size_of
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.cli.flags import Options

_PULL = ("always", "missing", "never", "")


def _create(invocation: Invocation) -> int:
    document = _document(invocation, detached=False)
    write_out(_make(invocation, document))
    return 0


def _run(invocation: Invocation) -> int:
    options = invocation.options
    detached = options.on("detach")
    if detached and options.texts("attach"):
        raise CommandError("conflicting options: cannot specify both --attach and --detach")
    document = _document(invocation, detached=detached)
    if options.given("detach-keys"):
        _check_keys(options.text("detach-keys"))
    if options.on("tty") and document["AttachStdin"] and not detached and not os.isatty(0):
        raise CommandError("the input device is not a TTY")
    container = _make(invocation, document)
    if detached or not (document["AttachStdin"] or document["AttachStdout"] or document["AttachStderr"]):
        invocation.client.containers.start(container)
        write_out(container)
        return 0
    return _run_attached(invocation, container, document)


def _run_attached(invocation: Invocation, container: str, document: dict[str, object]) -> int:
    """Attach, wait, start, in this order, so that neither output nor exit code can be missed."""
    options, client = invocation.options, invocation.client
    keys = options.text("detach-keys") or default_detach_keys(invocation)
    stream = client.containers.attach(
        container,
        stdin=bool(document["AttachStdin"]),
        stdout=bool(document["AttachStdout"]),
        stderr=bool(document["AttachStderr"]),
        detach_keys=keys,
    )
    waiting = client.containers.begin_wait(container, condition="removed" if options.on("rm") else "next-exit")
    try:
        client.containers.start(container)
    except OrlopError:
        stream.close()
        waiting.close()
        raise
    session = Session(
        stream,
        tty=options.on("tty"),
        stdin=bool(document["AttachStdin"]),
        detach_keys=keys,
        resize=lambda height, width: client.containers.resize(container, height=height, width=width),
        kill=(lambda name: client.containers.kill(container, signal=name)) if options.on("sig-proxy") else None,
    )
    session.run()
    if session.detached:
        waiting.close()
        return 0
    return waiting.result()


def _document(invocation: Invocation, *, detached: bool) -> dict[str, object]:
    options = invocation.options
    image, *command = invocation.arguments
    if options.text("pull") not in _PULL:
        raise failure(f'invalid pull option: \'{options.text("pull")}\': must be one of "always", "missing" or "never"')
    document = create_document(options, image, command, detached=detached)
    _check_image(image)
    if options.on("tty"):
        size = size_of(1)
        host = document["HostConfig"]
        if size is not None and isinstance(host, dict):
            host["ConsoleSize"] = [*size]
    return document


def _check_image(image: str) -> None:
    from orlop.spec.reference import parse_reference

    if image.startswith("sha256:") or (len(image) == 64 and set(image) <= set("0123456789abcdef")):
        return
    try:
        parse_reference(image)
    except InvalidParameterError as error:
        raise failure(str(error)) from None


def _make(invocation: Invocation, document: dict[str, object]) -> str:
    """Create the container, fetching its image when it is missing; return its id."""
    options = invocation.options
    cidfile = options.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise failure(f"container ID file found, make sure the other container isn't running or delete {cidfile}")
    image = invocation.arguments[0]
    if options.text("pull") == "always":
        _pull(invocation, image)
    try:
        made = _post(invocation, document, options)
    except NotFoundError as error:
        if "No such image" not in str(error) or options.text("pull") not in ("missing", ""):
            raise
        write_error(f"Unable to find image '{_with_tag(image)}' locally")
        _pull(invocation, image)
        made = _post(invocation, document, options)
    warnings = made.get("Warnings")
    for warning in warnings if isinstance(warnings, list) else []:
        write_error(f"WARNING: {warning}")
    container = str(made.get("Id", ""))
    if cidfile:
        with open(cidfile, "w", encoding="ascii") as file:
            file.write(container)
    return container


def _post(invocation: Invocation, document: dict[str, object], options: Options) -> Mapping[str, object]:
    return invocation.client.containers.create(
        document, name=options.text("name"), platform=options.text("platform") or default_platform()
    )


def default_platform() -> str:
    """Return DOCKER_DEFAULT_PLATFORM."""
    return os.environ.get("DOCKER_DEFAULT_PLATFORM", "")


def _pull(invocation: Invocation, image: str) -> None:
    from orlop.cli.transfers import pull_image

    platform = invocation.options.text("platform") or default_platform()
    pull_image(invocation, image, platform=platform, quiet=invocation.options.on("quiet"), to_stderr=True)


def _with_tag(image: str) -> str:
    from orlop.spec.reference import parse_reference

    return parse_reference(image).with_default_tag().familiar


def _check_keys(text: str) -> None:
    try:
        parse_detach_keys(text)
    except ValueError as error:
        raise failure(f"invalid detach keys ({text}): {error}") from None


def default_detach_keys(invocation: Invocation) -> str:
    """Return ``detachKeys`` of the user's configuration, "" when there is none that can be read."""
    keys = invocation.configuration().get("detachKeys")
    if not isinstance(keys, str):
        return ""
    try:
        parse_detach_keys(keys)
    except ValueError:
        return ""
    return keys


_USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
RUN = Command(
    _USAGE,
    "Make a container from an image and run it",
    _run,
    flags=RUN_FLAGS,
    arguments=(1, None),
    first_argument_ends=True,
    prefixed=True,
)
CREATE = Command(
    _USAGE,
    "Make a container without starting it",
    _create,
    flags=CREATE_FLAGS,
    arguments=(1, None),
    first_argument_ends=True,
    prefixed=True,
)
