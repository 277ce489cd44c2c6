"""``top``, ``port``, ``diff``, ``stats``."""

from __future__ import annotations

import sys

from orlop.cli import tables
from orlop.cli.documents import member, members, number, text, texts
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FORMAT, Listing
from orlop.cli.invocation import CommandError, Invocation, write_out
from orlop.cli.text import safe_cell, short_id
from orlop.cli.units import binary_size, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CHANGES = {0: "C", 1: "A", 2: "D"}
_STATS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}


def _top(invocation: Invocation) -> int:
    name, *arguments = invocation.arguments
    answer = invocation.client.containers.top(name, arguments=" ".join(arguments))
    processes = answer.get("Processes")
    rows: list[list[object]] = [[*texts(answer, "Titles")]]
    if isinstance(processes, list):
        rows += [list(row) for row in processes if isinstance(row, list)]
    lines = ["\t".join(safe_cell(str(cell)) for cell in row) for row in rows]
    sys.stdout.write(tables.render(lines, minimum=20))
    return 0


def _port(invocation: Invocation) -> int:
    name, *wanted = invocation.arguments
    inspected = invocation.client.containers.inspect(name)
    bindings = member(member(inspected, "NetworkSettings"), "Ports")
    if not wanted:
        lines = [
            f"{key} -> {_join(text(host, 'HostIp'), text(host, 'HostPort'))}"
            for key in bindings
            for host in members(bindings, key)
        ]
        for line in sorted(lines, key=_port_order):
            write_out(line)
        return 0
    port, _, protocol = wanted[0].partition("/")
    if not (port.isascii() and port.isdigit()):
        raise CommandError(f"Error: invalid port '{port}'")
    hosts = members(bindings, f"{port}/{protocol or 'tcp'}")
    if not hosts:
        raise CommandError(f"Error: No public port '{wanted[0]}' published for {name}")
    for host in hosts:
        write_out(_join(text(host, "HostIp"), text(host, "HostPort")))
    return 0


def _port_order(line: str) -> tuple[int, str]:
    return int(line.partition("/")[0]), line


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _diff(invocation: Invocation) -> int:
    for change in invocation.client.containers.changes(invocation.arguments[0]):
        write_out(f"{_CHANGES.get(number(change, 'Kind'), '?')} {safe_cell(text(change, 'Path'))}")
    return 0


def _stats(invocation: Invocation) -> int:
    options, client = invocation.options, invocation.client
    if not options.on("no-stream"):
        raise CommandError("live statistics are not supported yet: use --no-stream")
    names = invocation.arguments
    if not names:
        names = [text(container, "Id") for container in client.containers.list(everything=options.on("all"))]
    rows = [
        _usage(name, document, truncate=not options.on("no-trunc"))
        for name in names
        for document in client.containers.stats(name, stream=False)
    ]
    columns = [column for column in _STATS if column != "Container"]
    Listing("*container.statsContext", _STATS, columns).write(rows, options.text("format"))
    return 0


def _usage(name: str, document: Mapping[str, object], *, truncate: bool) -> dict[str, object]:
    memory = member(document, "memory_stats")
    details = member(memory, "stats")
    cache = number(details, "total_inactive_file") or number(details, "inactive_file")
    used = number(memory, "usage")
    used -= cache if cache < used else 0
    limit = number(memory, "limit")
    networks = [entry for entry in member(document, "networks").values() if isinstance(entry, dict)]
    blocks = members(member(document, "blkio_stats"), "io_service_bytes_recursive")
    identifier = text(document, "id")
    received, sent = (sum(number(entry, key) for entry in networks) for key in ("rx_bytes", "tx_bytes"))
    read, written = (
        sum(number(entry, "value") for entry in blocks if text(entry, "op").lower() == kind)
        for kind in ("read", "write")
    )
    return {
        "Container": name,
        "ID": short_id(identifier) if truncate else identifier,
        "Name": text(document, "name").removeprefix("/"),
        "CPUPerc": f"{_cpu(document):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human_size(received)} / {human_size(sent)}",
        "BlockIO": f"{human_size(read)} / {human_size(written)}",
        "PIDs": str(number(member(document, "pids_stats"), "current")),
    }


def _cpu(document: Mapping[str, object]) -> float:
    now, before = member(document, "cpu_stats"), member(document, "precpu_stats")
    own = number(member(now, "cpu_usage"), "total_usage") - number(member(before, "cpu_usage"), "total_usage")
    whole = number(now, "system_cpu_usage") - number(before, "system_cpu_usage")
    return own / whole * (number(now, "online_cpus") or 1) * 100 if own > 0 and whole > 0 else 0.0


TOP = Command(
    "CONTAINER [ps OPTIONS]",
    "List the processes of a container",
    _top,
    arguments=(1, None),
    first_argument_ends=True,
)
PORT = Command("CONTAINER [PRIVATE_PORT[/PROTO]]", "List the published ports of a container", _port, arguments=(1, 2))
DIFF = Command("CONTAINER", "List what changed in a container's file system", _diff, arguments=(1, 1))
STATS = Command(
    "[OPTIONS] [CONTAINER...]",
    "Show what containers use",
    _stats,
    flags=(
        Flag("all", "Show stopped containers too", short="a"),
        FORMAT,
        Flag("no-stream", "Show one reading and quit"),
        Flag("no-trunc", "Don't shorten values"),
    ),
    arguments=(0, None),
)
