"""``system check``: what is on disk and in no record, and what is damaged."""

from __future__ import annotations

from orlop.cli.documents import members, number, text
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FORMAT, Listing
from orlop.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.invocation import Invocation

_HEADERS = {"Kind": "KIND", "Name": "NAME", "Size": "SIZE", "State": "STATE", "Detail": "DETAIL"}


def _check(invocation: Invocation) -> int:
    """Print the findings; 1 if any of them stays."""
    answer = invocation.client.system.check(
        repair=invocation.options.on("repair"), quick=invocation.options.on("quick")
    )
    findings = members(answer, "Findings")
    rows = [
        {
            "Kind": text(finding, "Kind"),
            "Name": text(finding, "Name"),
            "Size": human_size(number(finding, "Size")),
            "State": "repaired" if finding.get("Repaired") else text(finding, "Note") or "found",
            "Detail": text(finding, "Detail"),
        }
        for finding in findings
    ]
    if rows or invocation.options.text("format"):
        Listing("*formatter.checkContext", _HEADERS, tuple(_HEADERS)).write(rows, invocation.options.text("format"))
    return int(any(not finding.get("Repaired") for finding in findings))


CHECK = Command(
    "[OPTIONS]",
    "Find space that nothing refers to, and damage",
    _check,
    flags=(
        Flag("repair", "Give it back, and make again what is damaged"),
        Flag("quick", "Do not read what images hold"),
        FORMAT,
    ),
)
