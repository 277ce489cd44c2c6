"""``images``, ``pull``, ``rmi``, ``tag``, ``history``."""

from __future__ import annotations

import time

from orlop.cli.documents import number, text, texts
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FILTER, FORMAT, NO_TRUNC, Listing
from orlop.cli.invocation import CommandError, Invocation, parse_filters, write_error, write_out
from orlop.cli.text import ellipsis, short_id
from orlop.cli.units import human_duration, human_size
from orlop.errors import InvalidParameterError, OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE = "<none>"
HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
_HISTORY_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def _images(invocation: Invocation) -> int:
    options = invocation.options
    filters = parse_filters(options.texts("filter"))
    if invocation.arguments:
        filters.setdefault("reference", []).append(invocation.arguments[0])
    form = options.text("format")
    if not form and not options.on("quiet"):
        configured = invocation.configuration().get("imagesFormat")
        form = configured if isinstance(configured, str) else ""
    images = invocation.client.images.list(everything=options.on("all"), filters=filters)
    now = time.time()
    truncate = not options.on("no-trunc")
    rows = [row for image in images for row in image_rows(image, now, truncate=truncate)]
    columns = ["Repository", "Tag", "ID", "CreatedSince", "Size"]
    if options.on("digests"):
        columns.insert(2, "Digest")
    listing = Listing("*formatter.imageContext", HEADERS, columns)
    listing.write(rows, form, quiet="ID" if options.on("quiet") else None)
    return 0


def image_rows(image: Mapping[str, object], now: float, *, truncate: bool) -> list[dict[str, object]]:
    """Return a row per name of an image; one of "<none>" when it has no name."""
    created, identifier = number(image, "Created"), text(image, "Id")
    names = [name for name in texts(image, "RepoTags") if name != "<none>:<none>"]
    digest_names = [name for name in texts(image, "RepoDigests") if name != "<none>@<none>"]
    found = [(*_split_tag(name), _digest_of(name, digest_names)) for name in names]
    if not found:
        found = [(name.partition("@")[0], _NONE, name.partition("@")[2]) for name in digest_names[:1]]
    if not found:
        found = [(_NONE, _NONE, "")]
    containers = image.get("Containers")
    common: dict[str, object] = {
        "Containers": str(containers) if isinstance(containers, int) and containers >= 0 else "N/A",
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created)),
        "CreatedSince": f"{human_duration(now - created)} ago" if created else "N/A",
        "ID": short_id(identifier) if truncate else identifier,
        "SharedSize": "N/A",
        "Size": human_size(number(image, "Size")),
        "UniqueSize": "N/A",
        "VirtualSize": human_size(number(image, "Size")),
    }
    return [
        {**common, "Repository": repository, "Tag": tag, "Digest": digest or _NONE} for repository, tag, digest in found
    ]


def _split_tag(name: str) -> tuple[str, str]:
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, _NONE)


def _digest_of(name: str, digest_names: list[str]) -> str:
    repository = _split_tag(name)[0]
    return next((other.partition("@")[2] for other in digest_names if other.partition("@")[0] == repository), "")


def _pull(invocation: Invocation) -> int:
    import os

    from orlop.cli.transfers import pull_image

    options = invocation.options
    platform = options.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    pull_image(
        invocation,
        invocation.arguments[0],
        platform=platform,
        quiet=options.on("quiet"),
        all_tags=options.on("all-tags"),
    )
    return 0


def _remove(invocation: Invocation) -> int:
    options, failures, missing = invocation.options, [], True
    for name in invocation.arguments:
        try:
            removed = invocation.client.images.remove(name, force=options.on("force"), no_prune=options.on("no-prune"))
        except OrlopError as error:
            failures.append(f"Error response from daemon: {error}")
            missing = missing and error.kind == "not_found"
            continue
        for entry in removed:
            for action in ("Deleted", "Untagged"):
                if text(entry, action):
                    write_out(f"{action}: {text(entry, action)}")
    if failures and not (options.on("force") and missing):
        raise CommandError("\n".join(failures))
    for failure in failures:
        write_error(failure)
    return 0


def _tag(invocation: Invocation) -> int:
    from orlop.spec.reference import parse_reference

    source, target = invocation.arguments
    try:
        reference = parse_reference(target).with_default_tag()
    except InvalidParameterError as error:
        raise CommandError(f'Error parsing reference: "{target}" is not a valid repository/tag: {error}') from None
    if reference.digest is not None:
        raise CommandError("refusing to create a tag with a digest reference")
    invocation.client.images.tag(source, repository=reference.name, tag=reference.tag or "")
    return 0


def _history(invocation: Invocation) -> int:
    options, now, rows = invocation.options, time.time(), []
    truncate, human = not options.on("no-trunc"), options.on("human")
    for layer in invocation.client.images.history(invocation.arguments[0]):
        identifier, created = text(layer, "Id"), number(layer, "Created")
        command = text(layer, "CreatedBy").replace("\t", " ")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
        rows.append(
            {
                "ID": short_id(identifier) if truncate else identifier,
                "CreatedSince": (f"{human_duration(now - created)} ago" if human else stamp) if created > 0 else "N/A",
                "CreatedAt": stamp,
                "CreatedBy": ellipsis(command, 45) if truncate else command,
                "Size": human_size(number(layer, "Size")) if human else str(number(layer, "Size")),
                "Comment": text(layer, "Comment"),
            }
        )
    columns = ("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment")
    listing = Listing("*formatter.historyContext", _HISTORY_HEADERS, columns)
    listing.write(rows, options.text("format"), quiet="ID" if options.on("quiet") else None)
    return 0


IMAGES = Command(
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    _images,
    flags=(
        Flag("all", "Show intermediate images too", short="a"),
        Flag("digests", "Show digests"),
        FILTER,
        FORMAT,
        NO_TRUNC,
        Flag("quiet", "Only show ids", short="q"),
    ),
    arguments=(0, 1),
)
PULL = Command(
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Fetch an image from a registry",
    _pull,
    flags=(
        Flag("all-tags", "Fetch all tags of the repository", short="a"),
        Flag("disable-content-trust", "Accepted for Docker's sake", default=True),
        Flag("platform", "Platform of the image, os/architecture", kind="string"),
        Flag("quiet", "Show no progress", short="q"),
    ),
    arguments=(1, 1),
)
RMI = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove images",
    _remove,
    flags=(
        Flag("force", "Remove also what stopped containers use", short="f"),
        Flag("no-prune", "Keep untagged parents"),
    ),
    arguments=(1, None),
)
TAG = Command("SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Give an image another name", _tag, arguments=(2, 2))
HISTORY = Command(
    "[OPTIONS] IMAGE",
    "Show how an image was made",
    _history,
    flags=(
        FORMAT,
        Flag("human", "Write sizes and times for people", short="H", default=True),
        NO_TRUNC,
        Flag("quiet", "Only show ids", short="q"),
    ),
    arguments=(1, 1),
)
