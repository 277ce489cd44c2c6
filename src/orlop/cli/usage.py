"""``system df``."""

from __future__ import annotations

from orlop.cli.documents import member, members, number, text
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FORMAT, Listing
from orlop.cli.invocation import CommandError, Invocation
from orlop.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def _df(invocation: Invocation) -> int:
    if invocation.options.on("verbose"):
        raise CommandError("not supported yet: system df --verbose")
    answer = invocation.client.system.disk_usage()
    rows = [_images(answer), _containers(answer), _volumes(answer), _cache(answer)]
    Listing("*formatter.diskUsageContext", _HEADERS, tuple(_HEADERS)).write(rows, invocation.options.text("format"))
    return 0


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
    flags=(FORMAT, Flag("verbose", "Refused: not supported yet", short="v")),
)
