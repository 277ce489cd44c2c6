"""``commit``."""

from __future__ import annotations

from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, write_out
from orlop.errors import InvalidParameterError


def _commit(invocation: Invocation) -> int:
    from orlop.spec.reference import parse_reference

    options = invocation.options
    container, name = invocation.arguments[0], (invocation.arguments[1:] or [""])[0]
    repository = tag = ""
    if name:
        try:
            reference = parse_reference(name)
        except InvalidParameterError as error:
            raise CommandError(str(error)) from None
        if reference.digest is not None:
            raise CommandError("refusing to create a tag with a digest reference")
        repository, tag = reference.name, reference.with_default_tag().tag or ""
    made = invocation.client.containers.commit(
        container,
        repository=repository,
        tag=tag,
        author=options.text("author"),
        comment=options.text("message"),
        changes=options.texts("change"),
        pause=options.on("pause"),
    )
    write_out(made)
    return 0


COMMIT = Command(
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Make an image of a container's changes",
    _commit,
    flags=(
        Flag("author", "Author, such as 'Jane Doe <jane@example.org>'", short="a", kind="string"),
        Flag("change", "Apply a Dockerfile instruction to the image", short="c", kind="list"),
        Flag("message", "Comment of the image", short="m", kind="string"),
        Flag("pause", "Freeze the container's processes meanwhile", short="p", default=True),
    ),
    arguments=(1, 2),
)
