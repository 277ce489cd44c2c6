"""``container|image|network|volume|system prune``."""

from __future__ import annotations

from orlop.cli.documents import members, number, text, texts
from orlop.cli.flags import Command, Flag
from orlop.cli.invocation import CommandError, Invocation, confirm, parse_filters, write_out
from orlop.cli.quantities import parse_size
from orlop.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FORCE = Flag("force", "Do not ask", short="f")
_FILTER = Flag("filter", "Only what matches, as in 'until=24h'", kind="filter")


def _filters(invocation: Invocation) -> dict[str, list[str]]:
    texts_given = invocation.options.texts("filter")
    plain = parse_filters([word for word in texts_given if "!=" not in word])
    for word in texts_given:
        name, _, value = word.partition("!=")
        if "!=" in word:
            plain.setdefault(f"{name}!", []).append(value)
    return plain


def _agreed(invocation: Invocation, warning: str) -> bool:
    return invocation.options.on("force") or confirm(warning)


def _containers(invocation: Invocation) -> int:
    if _agreed(invocation, "WARNING! This will remove all stopped containers."):
        reclaimed = _report("Containers", invocation.client.containers.prune(filters=_filters(invocation)))
        write_out(f"Total reclaimed space: {human_size(reclaimed, digits=4)}")
    return 0


def _networks(invocation: Invocation) -> int:
    if _agreed(invocation, "WARNING! This will remove all custom networks not used by at least one container."):
        _report("Networks", invocation.client.networks.prune(filters=_filters(invocation)))
    return 0


def _volumes(invocation: Invocation) -> int:
    everything, filters = invocation.options.on("all"), _filters(invocation)
    if everything:
        filters["all"] = ["true"]
    kind = "all" if everything else "anonymous"
    if _agreed(invocation, f"WARNING! This will remove {kind} local volumes not used by at least one container."):
        reclaimed = _report("Volumes", invocation.client.volumes.prune(filters=filters))
        write_out(f"Total reclaimed space: {human_size(reclaimed, digits=4)}")
    return 0


def _images(invocation: Invocation) -> int:
    everything = invocation.options.on("all")
    what = "all images without at least one container associated to them" if everything else "all dangling images"
    if _agreed(invocation, f"WARNING! This will remove {what}."):
        filters = {**_filters(invocation), "dangling": [str(not everything).lower()]}
        reclaimed = _report_images(invocation.client.images.prune(filters=filters))
        write_out(f"Total reclaimed space: {human_size(reclaimed, digits=4)}")
    return 0


def _system(invocation: Invocation) -> int:
    options, client, filters = invocation.options, invocation.client, _filters(invocation)
    if options.on("volumes") and "until" in filters:
        raise CommandError('The "until" filter is not supported with "--volumes"')
    kinds = ["all stopped containers", "all networks not used by at least one container"]
    if options.on("volumes"):
        kinds.append("all anonymous volumes not used by at least one container")
    kinds.append(
        "all images without at least one container associated to them" if options.on("all") else "all dangling images"
    )
    listed = "\n".join(f"  - {kind}" for kind in kinds)
    if not _agreed(invocation, f"WARNING! This will remove:\n{listed}\n"):
        return 0
    reclaimed = _report("Containers", client.containers.prune(filters=filters))
    _report("Networks", client.networks.prune(filters=filters))
    if options.on("volumes"):
        reclaimed += _report("Volumes", client.volumes.prune(filters=filters))
    dangling = [str(not options.on("all")).lower()]
    reclaimed += _report_images(client.images.prune(filters={**filters, "dangling": dangling}))
    write_out(f"Total reclaimed space: {human_size(reclaimed, digits=4)}")
    return 0


def _builds(invocation: Invocation) -> int:
    options = invocation.options
    everything = options.on("all")
    what = "all build cache" if everything else "all dangling build cache"
    if _agreed(invocation, f"WARNING! This will remove {what}."):
        answer = invocation.client.builds.prune(
            filters=_filters(invocation), everything=everything, keep=options.number("keep-storage")
        )
        deleted = texts(answer, "CachesDeleted")
        if deleted:
            write_out("\n".join(["Deleted build cache objects:", *deleted, ""]))
        write_out(f"Total reclaimed space: {human_size(number(answer, 'SpaceReclaimed'), digits=4)}")
    return 0


def _report(noun: str, answer: Mapping[str, object]) -> int:
    names = texts(answer, f"{noun}Deleted")
    if names:
        write_out("\n".join([f"Deleted {noun}:", *names, ""]))
    return number(answer, "SpaceReclaimed")


def _report_images(answer: Mapping[str, object]) -> int:
    lines = [
        f"{label}: {text(entry, member)}"
        for entry in members(answer, "ImagesDeleted")
        for member, label in (("Untagged", "untagged"), ("Deleted", "deleted"))
        if text(entry, member)
    ]
    if lines:
        write_out("\n".join(["Deleted Images:", *lines, ""]))
    return number(answer, "SpaceReclaimed")


def _command(summary: str, run: Callable[[Invocation], int], *flags: Flag) -> Command:
    return Command("[OPTIONS]", summary, run, flags=(*flags, _FILTER, _FORCE))


CONTAINERS = _command("Remove all stopped containers", _containers)
NETWORKS = _command("Remove unused networks", _networks)
VOLUMES = _command("Remove unused volumes", _volumes, Flag("all", "Named volumes too", short="a"))
IMAGES = _command("Remove unused images", _images, Flag("all", "Also images that have a name", short="a"))
SYSTEM = _command(
    "Remove unused data",
    _system,
    Flag("all", "Also images that have a name", short="a"),
    Flag("volumes", "Anonymous volumes too"),
)
BUILDS = _command(
    "Remove the build cache",
    _builds,
    Flag("all", "Also what images with a name stand on", short="a"),
    Flag("keep-storage", "Bytes of cache that may stay", kind="bytes", convert=parse_size, default=0),
)
