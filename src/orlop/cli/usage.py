"""``system df``."""

from __future__ import annotations

import sys
import time

from orlop.cli.documents import member, members, number, text
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FORMAT, Listing
from orlop.cli.images import HEADERS as IMAGE_HEADERS
from orlop.cli.images import image_rows
from orlop.cli.invocation import CommandError, Invocation, write_out
from orlop.cli.listing import HEADERS as CONTAINER_HEADERS
from orlop.cli.listing import container_row
from orlop.cli.units import human_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def _df(invocation: Invocation) -> int:
    answer = invocation.client.system.disk_usage()
    if invocation.options.on("verbose"):
        if invocation.options.text("format"):
            raise CommandError("the verbose and format options cannot be combined")
        _write_all(answer)
        return 0
    rows = [_images(answer), _containers(answer), _volumes(answer), _cache(answer)]
    Listing("*formatter.diskUsageContext", _HEADERS, tuple(_HEADERS)).write(rows, invocation.options.text("format"))
    return 0


def _write_all(answer: Mapping[str, object]) -> None:
    """Write a table of each kind, as docker does."""
    now = time.time()
    images = []
    for image in members(answer, "Images"):
        shared = max(number(image, "SharedSize"), 0)
        sizes = {
            "SharedSize": human_size(shared, digits=4),
            "UniqueSize": human_size(number(image, "Size") - shared, digits=4),
        }
        images += [{**row, **sizes} for row in image_rows(image, now, truncate=True)]
    columns = ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers")
    _write("Images space usage:", IMAGE_HEADERS, columns, images)
    containers = [
        {**container_row(one, now, truncate=True), "Size": human_size(number(one, "SizeRw"))}
        for one in members(answer, "Containers")
    ]
    columns = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    _write("\nContainers space usage:", CONTAINER_HEADERS, columns, containers)
    volumes = []
    for volume in members(answer, "Volumes"):
        usage = member(volume, "UsageData")
        links, size = str(number(usage, "RefCount")), human_size(number(usage, "Size"), digits=4)
        volumes.append({"Name": text(volume, "Name"), "Links": links, "Size": size})
    headers = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
    _write("\nLocal Volumes space usage:", headers, tuple(headers), volumes)
    labels = ("CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED")
    names = {label.title().replace(" ", ""): label for label in labels}
    rows = [_cache_row(entry, now) for entry in members(answer, "BuildCache")]
    _write(f"\nBuild cache usage: {_cache(answer)['Size']}", names, tuple(names), rows)


def _cache_row(entry: Mapping[str, object], now: float) -> dict[str, object]:
    return {
        "CacheId": text(entry, "ID")[:12],
        "CacheType": text(entry, "Type"),
        "Size": human_size(number(entry, "Size"), digits=4),
        "Created": _ago(text(entry, "CreatedAt"), now),
        "LastUsed": _ago(text(entry, "LastUsedAt"), now),
        "Usage": str(number(entry, "UsageCount")),
        "Shared": str(entry.get("Shared") is True).lower(),
    }


def _ago(stamp: str, now: float) -> str:
    from orlop.spec.timestamps import unix_seconds

    seconds = unix_seconds(stamp)
    return f"{human_duration(now - seconds)} ago" if seconds > 0 else ""


def _write(
    title: str, headers: Mapping[str, str], columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> None:
    write_out(f"{title}\n")
    sys.stdout.flush()
    Listing("*formatter.diskUsageContext", dict(headers), list(columns)).write(list(rows), "")


def _row(kind: str, total: int, active: int, size: int, free: int, *, share: bool = True) -> dict[str, object]:
    reclaimable = human_size(free, digits=4)
    if size > 0 and share:
        reclaimable += f" ({free * 100 // size}%)"
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size, digits=4),
        "Reclaimable": reclaimable,
    }


def _images(answer: Mapping[str, object]) -> dict[str, object]:
    images = members(answer, "Images")
    used = [image for image in images if number(image, "Containers") > 0]
    total = number(answer, "LayersSize")
    kept = sum(number(image, "Size") - max(number(image, "SharedSize"), 0) for image in used)
    return _row("Images", len(images), len(used), total, max(total - kept, 0))


def _containers(answer: Mapping[str, object]) -> dict[str, object]:
    containers = members(answer, "Containers")
    active = [
        one for one in containers if any(word in text(one, "State") for word in ("running", "paused", "restarting"))
    ]
    size = sum(number(one, "SizeRw") for one in containers)
    kept = sum(number(one, "SizeRw") for one in active)
    return _row("Containers", len(containers), len(active), size, size - kept)


def _volumes(answer: Mapping[str, object]) -> dict[str, object]:
    volumes = members(answer, "Volumes")
    usage = [member(volume, "UsageData") for volume in volumes]
    known = [one for one in usage if number(one, "Size") >= 0]
    size = sum(number(one, "Size") for one in known)
    kept = sum(number(one, "Size") for one in known if number(one, "RefCount") > 0)
    active = sum(number(one, "RefCount") > 0 for one in usage)
    return _row("Local Volumes", len(volumes), active, size, size - kept)


def _cache(answer: Mapping[str, object]) -> dict[str, object]:
    entries = members(answer, "BuildCache")
    size = sum(number(entry, "Size") for entry in entries if entry.get("Shared") is not True)
    active = [entry for entry in entries if entry.get("InUse") is True]
    kept = sum(number(entry, "Size") for entry in active)
    return _row("Build Cache", len(entries), len(active), size, size - kept, share=False)


DF = Command(
    "[OPTIONS]",
    "Show what images, containers and volumes take on disk",
    _df,
    flags=(FORMAT, Flag("verbose", "Show every image, container and volume", short="v")),
)
