"""Commands of Docker that this version refuses, by name."""

from __future__ import annotations

from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation


def _cp(invocation: Invocation) -> int:
    raise CommandError(
        f"not supported yet: {invocation.path}; use '{invocation.path.split()[0]} export', "
        f"or tar through '{invocation.path.split()[0]} exec'"
    )


def _commit(invocation: Invocation) -> int:
    raise CommandError(f"not supported yet: {invocation.path}; use export and import")


CP = Command(
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-",
    "Copy files between a container and the host (not supported yet)",
    _cp,
    flags=(
        Flag("archive", "Keep owners", short="a"),
        Flag("follow-link", "Follow links in the source", short="L"),
        Flag("quiet", "Show no progress", short="q"),
    ),
    arguments=(2, 2),
)
COMMIT = Command(
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Make an image of a container's changes (not supported yet)",
    _commit,
    flags=(
        Flag("author", "Author", short="a", kind="string"),
        Flag("change", "Apply a Dockerfile instruction", short="c", kind="list"),
        Flag("message", "Comment", short="m", kind="string"),
        Flag("pause", "Pause the container meanwhile", short="p", default=True),
    ),
    arguments=(1, 2),
)
