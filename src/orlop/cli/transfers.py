"""Images to and from registries, as ``pull``, ``push``, ``run`` and ``build`` need them."""

from __future__ import annotations

import sys

from orlop.cli.credentials import registry_auth
from orlop.cli.invocation import CommandError, Invocation, write_out
from orlop.errors import InvalidParameterError
from orlop.spec.reference import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from orlop.spec.reference import Reference


def _read_reference(name: str, *, complete: bool, tell: bool) -> Reference:
    """Read a name; when it is to be complete, it gets the default tag, which the user may be told."""
    try:
        reference = parse_reference(name)
    except InvalidParameterError as error:
        raise CommandError(str(error)) from None
    if complete and reference.tag is None and reference.digest is None:
        reference = reference.with_default_tag()
        if tell:
            write_out(f"Using default tag: {reference.tag}")
            sys.stdout.flush()
    return reference


def pull_image(
    invocation: Invocation,
    name: str,
    *,
    platform: str = "",
    quiet: bool = False,
    all_tags: bool = False,
    to_stderr: bool = False,
) -> None:
    """Fetch an image and show the progress.

    Raises:
        CommandError: bad reference, or the fetch failed.
        OrlopError: the engine refused.
    """
    from orlop.cli.progress import show

    reference = _read_reference(name, complete=not all_tags, tell=not quiet and not to_stderr)
    tag = str(reference.digest) if reference.digest is not None else reference.tag or ""
    auth = registry_auth(invocation.configuration(), reference.domain)
    documents = invocation.client.images.pull(reference.name, tag=tag, platform=platform, auth=auth)
    show(documents, quiet=quiet, stream=sys.stderr if to_stderr else sys.stdout)
    if not to_stderr:
        write_out(reference.name if all_tags else str(reference))


def push_image(
    invocation: Invocation,
    name: str,
    *,
    quiet: bool = False,
    all_tags: bool = False,
    stream: TextIO | None = None,
) -> Reference:
    """Send an image and show the progress; returns its complete name.

    Raises:
        CommandError: bad reference, or it could not be sent.
        OrlopError: the engine refused.
    """
    from orlop.cli.progress import show

    reference = _read_reference(name, complete=not all_tags, tell=not quiet and stream is None)
    if all_tags and (reference.tag is not None or reference.digest is not None):
        raise CommandError("tag can't be used with --all-tags/-a")
    auth = registry_auth(invocation.configuration(), reference.domain)
    documents = invocation.client.images.push(reference.name, tag="" if all_tags else reference.tag or "", auth=auth)
    show(documents, quiet=quiet, stream=stream)
    return reference
