"""``docker top`` with arguments of ps(1): the host's own ps tells, and only the container's lines are kept.

As in dockerd: the program is the host's, never the image's (CVE-2022-1227), it gets arguments and no shell, and its
table must have a PID column, by which the lines are told apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.primitives import commands

if TYPE_CHECKING:
    from collections.abc import Collection

    from orlop.spec.json import JsonObject, JsonValue

# A column that another process's number could be shown under as "PID".
_RENAMED = re.compile(r"\s([^\s=]*)=\s*(PID\S*)")
_NO_PID = "-"  # in the PID column of a thread's line (ps m), which belongs to the process above


def run_ps(pids: Collection[int], arguments: str) -> JsonObject:
    """Return ``Titles`` and ``Processes`` as ps with ``arguments`` shows these processes. Blocks.

    Raises:
        InvalidParameterError: a column other than ``pid`` would be called PID.
        SystemFailureError: ps refused the arguments, or shows no process numbers.
    """
    for name, title in _RENAMED.findall(f" {arguments}"):
        if name != "pid":
            raise InvalidParameterError(f'specifying "{name}={title}" is not allowed')
    words = arguments.split()
    done = commands.run(["ps", *words, "-q" + ",".join(map(str, sorted(pids)))])
    if done.returncode:  # some options cannot be combined with -q: take all processes there are
        done = commands.run(["ps", *words])
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").partition("\n")[0] or f"exit status {done.returncode}"
        raise SystemFailureError(f"ps: {reason}")
    return select_lines(done.stdout.decode("utf-8", "replace"), pids)


def select_lines(output: str, pids: Collection[int]) -> JsonObject:
    """Split a table of ps into titles and the rows of ``pids``; the last column takes what is left of a line.

    Raises:
        SystemFailureError: there is no PID column, or something else than a number in it.
    """
    lines = [fields for line in output.splitlines() if (fields := line.split())]
    titles: list[JsonValue] = [*lines[0]] if lines else []
    if "PID" not in titles:
        raise SystemFailureError("Couldn't find PID field in ps output")
    place, last = titles.index("PID"), len(titles) - 1
    rows: list[JsonValue] = []
    of_container = False
    for fields in lines[1:]:
        number = fields[place] if place < len(fields) else ""
        if number != _NO_PID:
            if not (number.isascii() and number.isdigit()):
                raise SystemFailureError(f"Unexpected pid '{number}' in ps output")
            of_container = int(number) in pids
        if of_container:
            rows.append([*fields[:last], " ".join(fields[last:])])
    return {"Titles": titles, "Processes": rows}
