"""``orlop system check``: the engine's own addition to Docker's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.call import Call, Route
from orlop.api.responses import json_response

if TYPE_CHECKING:
    from aiohttp import web

    from orlop.engine.checking import Checker, Finding


def routes(checker: Checker) -> list[Route]:
    """Return the routes: GET looks, POST repairs."""

    async def look(call: Call) -> web.Response:
        return json_response(_document(await checker.run(repair=False, quick=call.boolean("quick"))))

    async def repair(call: Call) -> web.Response:
        return json_response(_document(await checker.run(repair=True, quick=call.boolean("quick"))))

    return [Route("GET", "/system/check", look), Route("POST", "/system/check", repair)]


def _document(findings: list[Finding]) -> dict[str, object]:
    return {
        "Findings": [
            {
                "Kind": finding.kind,
                "Name": finding.name,
                "Size": finding.size,
                "Repairable": finding.repairable,
                "Repaired": finding.repaired,
                "Note": finding.note,
                "Detail": finding.detail,
            }
            for finding in findings
        ],
        "SpaceReclaimed": sum(
            finding.size for finding in findings if finding.repaired and not finding.kind.startswith("damaged")
        ),
    }
