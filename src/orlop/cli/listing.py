"""``orlop ps``."""

from __future__ import annotations

import time

from orlop.cli.documents import member, members
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FILTER, FORMAT, NO_TRUNC, Listing
from orlop.cli.invocation import Invocation, parse_filters
from orlop.cli.text import ellipsis, short_id
from orlop.cli.units import human_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}
_COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def _run(invocation: Invocation) -> int:
    options = invocation.options
    form = options.text("format")
    if not options.given("format") and not options.on("quiet"):
        configured = invocation.configuration().get("psFormat")
        form = configured if isinstance(configured, str) else ""
    size = options.on("size") or ".Size" in form or "json ." in form
    containers = invocation.client.containers.list(
        everything=options.on("all"),
        limit=1 if options.on("latest") else max(options.number("last"), 0),
        size=size,
        filters=parse_filters(options.texts("filter")),
    )
    now = time.time()
    rows = [container_row(container, now, truncate=not options.on("no-trunc")) for container in containers]
    columns = (*_COLUMNS, "Size") if options.on("size") else _COLUMNS
    listing = Listing("*formatter.ContainerContext", HEADERS, columns)
    listing.write(rows, form, quiet="ID" if options.on("quiet") else None)
    return 0


def container_row(container: Mapping[str, object], now: float, *, truncate: bool) -> dict[str, object]:
    """Return the columns of one container."""
    created = container.get("Created")
    created = created if isinstance(created, int) else 0
    labels = member(container, "Labels")
    networks = member(member(container, "NetworkSettings"), "Networks")
    identifier = str(container.get("Id", ""))
    command = str(container.get("Command", ""))
    mounts, volumes = _mounts(container, truncate=truncate)
    return {
        "Command": f'"{ellipsis(command, 20) if truncate else command}"',
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created)),
        "ID": short_id(identifier) if truncate else identifier,
        "Image": _image(container, truncate=truncate),
        "Label": lambda name: labels.get(str(name), ""),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "LocalVolumes": str(volumes),
        "Mounts": mounts,
        "Names": _names(container, truncate=truncate),
        "Networks": ",".join(networks),
        "Platform": None,
        "Ports": ports(container.get("Ports")),
        "RunningFor": f"{human_duration(now - created)} ago",
        "Size": _size(container),
        "State": str(container.get("State", "")),
        "Status": str(container.get("Status", "")),
    }


def _image(container: Mapping[str, object], *, truncate: bool) -> str:
    image = str(container.get("Image") or "<no image>")
    if not truncate:
        return image
    if image == container.get("ImageID") or image.startswith("sha256:"):
        return short_id(image)
    name, at, _ = image.partition("@")
    return name if at else image


def _names(container: Mapping[str, object], *, truncate: bool) -> str:
    names = container.get("Names")
    stripped = [str(name).removeprefix("/") for name in names] if isinstance(names, list) else []
    if truncate:
        stripped = [name for name in stripped if "/" not in name][:1]
    return ",".join(stripped)


def _mounts(container: Mapping[str, object], *, truncate: bool) -> tuple[str, int]:
    mounts = members(container, "Mounts")
    names = [str(mount.get("Name") or mount.get("Source") or "") for mount in mounts]
    volumes = sum(mount.get("Driver") == "local" for mount in mounts)
    return ",".join(ellipsis(name, 15) if truncate else name for name in names), volumes


def _size(container: Mapping[str, object]) -> str:
    own, whole = container.get("SizeRw"), container.get("SizeRootFs")
    text = human_size(own if isinstance(own, int) else 0)
    return f"{text} (virtual {human_size(whole)})" if isinstance(whole, int) and whole > 0 else text


def ports(listed: object) -> str:
    """Return ports as Docker shows them: neighbours joined in ranges, "0.0.0.0:80-81->80-81/tcp, 90/udp"."""
    entries = [port for port in listed if isinstance(port, dict)] if isinstance(listed, list) else []
    plain: list[tuple[int, str]] = []
    published: list[tuple[str, int, int, str]] = []
    for port in entries:
        private, public, kind = port.get("PrivatePort"), port.get("PublicPort"), str(port.get("Type", ""))
        if not isinstance(private, int):
            continue
        if isinstance(public, int) and public:
            published.append((str(port.get("IP", "")), private, public, kind))
        else:
            plain.append((private, kind))
    published.sort(key=lambda port: (port[1], port[0], port[3], port[2]))
    groups: list[str] = []
    singles: list[tuple[int, str]] = []
    runs: dict[tuple[str, str], list[int]] = {}
    for address, private, public, kind in published:
        if private != public:
            singles.append((private, f"{_host(address)}:{public}->{private}/{kind}"))
            continue
        key = (address, kind)
        last = runs.get(key)
        if last is not None and private == last[1] + 1:
            last[1] = private
            continue
        if last is not None:
            groups.append(_published_range(key, last))
        runs[key] = [private, private]
    groups += [_published_range(key, runs[key]) for key in sorted(runs)]
    return ", ".join([*groups, *_plain_ranges(list(dict.fromkeys(plain))), *(text for _, text in singles)])


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _published_range(key: tuple[str, str], ends: list[int]) -> str:
    address, kind = key
    text = str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"
    return f"{_host(address)}:{text}->{text}/{kind}"


def _plain_ranges(ports_: list[tuple[int, str]]) -> list[str]:
    out = []
    for kind in sorted({kind for _, kind in ports_}):
        numbers = sorted({number for number, other in ports_ if other == kind})
        first = last = numbers[0]
        for number in [*numbers[1:], -1]:
            if number == last + 1:
                last = number
                continue
            out.append(f"{first}/{kind}" if first == last else f"{first}-{last}/{kind}")
            first = last = number
    return out


PS = Command(
    "[OPTIONS]",
    "List containers",
    _run,
    flags=(
        Flag("all", "Show all containers, not only running ones", short="a"),
        FILTER,
        FORMAT,
        Flag("last", "Show the n containers made last, in any state", short="n", kind="int", default=-1),
        Flag("latest", "Show the container made last, in any state", short="l"),
        NO_TRUNC,
        Flag("quiet", "Only show ids", short="q"),
        Flag("size", "Show sizes on disk", short="s"),
    ),
)
