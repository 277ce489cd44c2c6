"""Verbs that only tell: state, list, ps."""

from __future__ import annotations

import sys

from orlop.errors import DataLossError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.primitives.json_text import dumps
from orlop.runtime.cgroups import open_cgroup
from orlop.runtime.oci.state import state_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.oci.command import Invocation
    from orlop.spec.json import JsonObject


def show_state(invocation: Invocation) -> int:
    """Print a container's state."""
    state = invocation.store.load(invocation.arguments[0])
    document = state_document(state, invocation.store.status(state, invocation.hierarchies))
    # two spaces as runc, without loading what an encoder that indents needs: no value but the annotations is nested
    rows = []
    for key, value in document.items():
        text = dumps(value)
        if isinstance(value, dict):
            inner = ",\n".join(f"    {dumps(name)}: {dumps(item)}" for name, item in value.items())
            text = f"{{\n{inner}\n  }}"
        rows.append(f"  {dumps(key)}: {text}")
    sys.stdout.write("{\n" + ",\n".join(rows) + "\n}\n")
    return 0


def list_containers(invocation: Invocation) -> int:
    """Print all containers: a table, ids or JSON. One whose state is damaged is told of and passed over."""
    form = invocation.options.text("format", "table")
    if invocation.options.switch("quiet"):
        sys.stdout.write("".join(f"{identity}\n" for identity in invocation.store.identities()))
        return 0
    if form not in ("table", "json"):
        raise InvalidParameterError("invalid format option")
    documents = _documents(invocation)
    if form == "json":
        sys.stdout.write(dumps(documents or None) + "\n")
    else:
        rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        keys = ("id", "pid", "status", "bundle", "created", "owner")
        rows.extend(tuple(str(document[key]) for key in keys) for document in documents)
        _print_table(rows)
    return 0


def _documents(invocation: Invocation) -> list[JsonObject]:
    from orlop.runtime.oci.process_table import owner_name

    store, documents = invocation.store, []
    for identity in store.identities():
        try:
            state = store.load(identity)
        except NotFoundError:
            continue  # deleted just now
        except DataLossError as error:
            sys.stderr.write(f"load container {identity}: {error}\n")
            continue
        status = store.status(state, invocation.hierarchies)
        documents.append({**state_document(state, status), "owner": owner_name(state.owner)})
    return documents


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns at least 12 wide with three spaces between, as runc's tabwriter."""
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        sys.stdout.write("".join([*cells, row[-1]]) + "\n")


def ps(invocation: Invocation) -> int:
    """Print the container's processes: ``ps -ef``'s table, the pids, or what the host's ps makes of other options."""
    identity, *words = invocation.arguments
    form = invocation.options.text("format", "table")
    state = invocation.store.load(identity)
    pids = sorted(open_cgroup(invocation.hierarchies, state.cgroup).pids())
    if form == "json":
        sys.stdout.write(dumps(pids or None) + "\n")
        return 0
    if form != "table":
        raise InvalidParameterError("invalid format option")
    if words in ([], ["-ef"]):
        from orlop.runtime.oci.process_table import process_lines

        lines = process_lines(pids)
    else:
        lines = _lines_of_ps(words, pids)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _lines_of_ps(words: list[str], pids: list[int]) -> list[str]:
    """Return the header of the host's ``ps`` with these options, and its lines for these processes.

    It is the host's own program, in its own namespaces (threats.md A12); what it prints of a process' name is the
    process' choice, and shown without control characters (H11).

    Raises:
        SystemFailureError: ps failed, or has no PID column.
    """
    from orlop.primitives.commands import run

    done = run(["ps", *words]).check()
    header, *rows = done.stdout.decode(errors="replace").splitlines() or [""]
    titles = header.split()
    if "PID" not in titles:
        raise SystemFailureError("couldn't find PID field in ps output")
    column = titles.index("PID")
    wanted = set(map(str, pids))
    lines = [header]
    for row in rows:
        cells = row.split()
        if len(cells) > column and cells[column] in wanted:
            lines.append("".join(character if character.isprintable() else "?" for character in row))
    return lines
