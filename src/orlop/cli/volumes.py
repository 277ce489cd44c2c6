"""``volume create|ls|rm``."""

from __future__ import annotations

from orlop.cli.documents import member, members, text
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FILTER, FORMAT, QUIET, Listing
from orlop.cli.invocation import CommandError, Invocation, each, key_values, parse_filters, write_out

_HEADERS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}


def _create(invocation: Invocation) -> int:
    options = invocation.options
    if invocation.arguments and options.given("name"):
        raise CommandError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    name = (invocation.arguments or [options.text("name")])[0]
    wished = (
        ("Driver", options.text("driver")),
        ("Name", name),
        ("DriverOpts", key_values(options.texts("opt"))),
        ("Labels", key_values(options.texts("label"))),
    )
    document: dict[str, object] = {key: value for key, value in wished if value}
    write_out(text(invocation.client.volumes.create(document), "Name"))
    return 0


def _list(invocation: Invocation) -> int:
    options = invocation.options
    answer = invocation.client.volumes.list(filters=parse_filters(options.texts("filter")))
    volumes = sorted(members(answer, "Volumes"), key=lambda volume: text(volume, "Name"))
    rows = []
    for volume in volumes:
        labels = member(volume, "Labels")
        rows.append(
            {
                "Availability": "N/A",
                "Driver": text(volume, "Driver"),
                "Group": "N/A",
                "Label": lambda name, labels=labels: labels.get(name, ""),
                "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
                "Links": "N/A",
                "Mountpoint": text(volume, "Mountpoint"),
                "Name": text(volume, "Name"),
                "Scope": text(volume, "Scope"),
                "Size": "N/A",
                "Status": "N/A",
            }
        )
    listing = Listing("*formatter.volumeContext", _HEADERS, ("Driver", "Name"))
    listing.write(rows, options.text("format"), quiet="Name" if options.on("quiet") else None)
    return 0


def _remove(invocation: Invocation) -> int:
    force, volumes = invocation.options.on("force"), invocation.client.volumes
    return each(invocation, lambda name: volumes.remove(name, force=force))


CREATE = Command(
    "[OPTIONS] [VOLUME]",
    "Make a volume",
    _create,
    flags=(
        Flag("driver", "Driver of the volume", short="d", kind="string", default="local"),
        Flag("label", "Set a label", kind="list"),
        Flag("name", "Name of the volume", kind="string"),
        Flag("opt", "Option of the driver", short="o", kind="map"),
    ),
    arguments=(0, 1),
)
LS = Command("[OPTIONS]", "List volumes", _list, flags=(FILTER, FORMAT, QUIET))
RM = Command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove volumes",
    _remove,
    flags=(Flag("force", "A missing one is no error", short="f"),),
    arguments=(1, None),
)
